"""Entries of a folder that are no regular files with a UTF-8 name."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def link_to_a_file(path: Path) -> None:
    path.symlink_to(path.parent / "graph.pb")


def link_to_a_folder(path: Path) -> None:
    path.symlink_to(path.parent / "variables")


def link_to_nothing(path: Path) -> None:
    path.symlink_to("nothing")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening_socket(path: Path) -> None:
    folder = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(folder)


def unreadable_name(path: Path) -> None:
    Path(os.fsdecode(os.fsencode(path.parent) + b"/\xff")).write_bytes(b"")


SPECIAL = [link_to_a_file, link_to_a_folder, link_to_nothing, pipe, listening_socket, unreadable_name]
