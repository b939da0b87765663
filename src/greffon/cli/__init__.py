"""The command line: one thin module per command, loaded when it is called."""

from greffon.cli.app import main

__all__ = ["main"]
