"""What each command does; `bridge.cli` reads the command line and calls these."""
