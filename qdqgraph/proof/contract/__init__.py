"""What the parsers refuse or misread, as rules with version bounds."""
