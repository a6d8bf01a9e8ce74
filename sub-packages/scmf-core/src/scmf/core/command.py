"""The argument parser of every command: its complaints have the three lines of every other error."""

from __future__ import annotations

import argparse
from typing import NoReturn

from scmf.core.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """argparse's parser, raising ConfigError where argparse would print its usage and exit with 2."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line, and where help is.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(message, where="command line", fix=f"{self.prog} --help")
