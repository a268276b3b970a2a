"""`python -m qdqgraph` is `qdqgraph`."""

from qdqgraph.cli.main import main

if __name__ == "__main__":
    main()
