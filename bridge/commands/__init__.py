"""What each command does; `bridge.cli` reads the command line and calls these.

Each raises UserError if an argument cannot be used, and nothing has been written then. Importing them is cheap.
"""
