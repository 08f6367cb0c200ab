"""From values to what a person or a script reads."""
