"""What the commands do: the Python API of the tool."""
