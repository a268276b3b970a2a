"""What must hold of a written file before it replaces anything."""
