#!/usr/bin/env python3
"""Local images for the tests: nothing is pulled, everything is made from the Python that runs this file.

    images.py base      Python, this environment's packages, a shell: what a registry's Python image would be
                        after `pip install -r requirements.lock`
    images.py serving   `tfship/embedded-serving:<version>`: our stand-in for tensorflow/serving, with its ports,
                        its environment and its flags, labelled tfship.stand-in=true
    images.py misbehaving       `tfship/misbehaving-HOW:local` for each way in misbehave.py, which is its server
    images.py worker    `tfship/worker:local`: deploy/worker/Dockerfile built on the base

Each prints the name of what it made, one a line. An image whose label tfship.content names the same content is not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
from misbehave import HOW

ROOT = Path(__file__).resolve().parents[2]
CONTENT_LABEL = "tfship.content"
BLOCK = 1 << 20
PREFIX = Path("/usr/local")
STDLIB = PREFIX / f"lib/python{sysconfig.get_python_version()}"
# A Dockerfile's RUN needs a shell, and a person in a broken container a few words to say.
PROGRAMS = (
    "sh",
    "cat",
    "chmod",
    "chown",
    "cp",
    "id",
    "ls",
    "mkdir",
    "mv",
    "rm",
    "sleep",
    "env",
    "ln",
    "uname",
    "kill",
    "bash",
)
WITHOUT = re.compile(
    r"^(tensorflow/include/|tfship|__editable__|_distutils_hack/__pycache__)"  # headers are a fifth of the image
)
STDLIB_WITHOUT = {"site-packages", "test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3"}
USERS = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
GROUPS = "root:x:0:\nnogroup:x:65534:\n"


def base(client: Any) -> str:
    """Make the base image, or find it made. About 2 GB, the most of it TensorFlow."""
    label = digest_of(
        Path(__file__).read_bytes(),
        sys.version.encode(),
        *sorted(f"{found.name}=={found.version}".encode() for found in importlib.metadata.distributions()),
    )
    reference = "tfship/python-base:local"
    if content_label(client, reference) == label:
        return reference
    changes = [
        f"LABEL {CONTENT_LABEL}={label}",
        f"ENV PATH={PREFIX}/bin:/usr/bin:/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1",
        f'CMD ["{PREFIX}/bin/python3"]',
    ]
    repository, _, tag = reference.partition(":")
    with StreamedTar(write_root_file_system) as archive:
        client.api.import_image_from_stream(archive, repository=repository, tag=tag, changes=changes)
    return reference


def serving(client: Any) -> str:
    """Make the stand-in server's image on the base, or find it made."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    sources = sorted((ROOT / "tasks").rglob("*.py"))
    context = {f"tasks/{path.relative_to(ROOT / 'tasks')}": path.read_bytes() for path in sources}
    context["entrypoint.sh"] = (Path(__file__).parent / "serving_entrypoint.sh").read_bytes()
    context["Dockerfile"] = (Path(__file__).parent / "serving.Dockerfile").read_bytes()
    return build(client, f"tfship/embedded-serving:{version}", context, {"BASE": base(client)})


def worker(client: Any) -> str:
    """Build deploy/worker/Dockerfile as it is, on the base, where the lock's packages are installed already."""
    names = ("pyproject.toml", "requirements.lock", "README.md", "LICENSE", "prefect.yaml")
    paths = [ROOT / name for name in names if (ROOT / name).exists()]
    for package in ("flows", "tasks", "deploy"):
        paths += [p for p in sorted((ROOT / package).rglob("*")) if p.is_file() and "__pycache__" not in p.parts]
    context = {str(path.relative_to(ROOT)): path.read_bytes() for path in paths}
    context["Dockerfile"] = context["deploy/worker/Dockerfile"]
    return build(client, "tfship/worker:local", context, {"BASE": base(client)})


def misbehaving(client: Any) -> str:
    """Make the images of servers that misbehave, one for each way in `misbehave.py`, on the stand-in server's."""
    on, program = serving(client), (Path(__file__).parent / "misbehave.py").read_bytes()
    made = []
    for how in HOW:
        start = f'ENTRYPOINT ["{PREFIX}/bin/python3", "/opt/misbehave.py", "{how}"]'
        lines = ["ARG SERVING", "FROM ${SERVING}", "COPY misbehave.py /opt/misbehave.py", start]
        context = {"misbehave.py": program, "Dockerfile": "\n".join(lines).encode()}
        made.append(build(client, f"tfship/misbehaving-{how}:local", context, {"SERVING": on}))
    return "\n".join(made)


def build(client: Any, reference: str, context: dict[str, bytes], arguments: dict[str, str]) -> str:
    """Build `reference` from a context held in memory, without network, unless it is there with the same content."""
    parts = [name.encode() + b"\0" + content for name, content in sorted(context.items())]
    parts += [f"{name}={client.images.get(image).id}".encode() for name, image in arguments.items()]
    label = digest_of(*parts)
    if content_label(client, reference) == label:
        return reference
    archive = io.BytesIO()
    with tarfile.open(mode="w", fileobj=archive) as tar:
        for name, content in context.items():
            add_bytes(tar, Path(name), content, 0o755 if content.startswith(b"#!") else 0o644)
    archive.seek(0)
    try:
        client.images.build(
            fileobj=archive,
            custom_context=True,
            tag=reference,
            buildargs=arguments,
            labels={CONTENT_LABEL: label},
            network_mode="none",
            rm=True,
            forcerm=True,
        )
    except docker.errors.BuildError as error:
        raise SystemExit(
            "\n".join([str(error), *(str(line.get("stream", "")).rstrip() for line in error.build_log)])
        ) from None
    return reference


def content_label(client: Any, reference: str) -> str | None:
    """What the image says it was made from, or None where there is no such image."""
    try:
        labels: dict[str, str] = client.images.get(reference).labels
    except docker.errors.ImageNotFound:
        return None
    return labels.get(CONTENT_LABEL)


def digest_of(*parts: bytes) -> str:
    """One digest over the digests of `parts`."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


# The root file system ----------------------------------------------------------------------------------------------


def write_root_file_system(tar: tarfile.TarFile) -> None:
    """Python under /usr/local with this environment's packages, a shell, and the libraries that all of it loads."""
    for folder, mode in (("tmp", 0o1777), ("root", 0o700), ("etc", 0o755), ("var/tmp", 0o1777)):
        add_folder(tar, Path(folder), mode)
    for folder in ("bin", "sbin", "lib"):  # merged /usr, as Debian's
        link = tarfile.TarInfo(folder)
        link.type, link.linkname = tarfile.SYMTYPE, f"usr/{folder}"
        tar.addfile(link)
    for name, text in (("passwd", USERS), ("group", GROUPS), ("nsswitch.conf", "hosts: files dns\n")):
        add_bytes(tar, Path("etc") / name, text.encode(), 0o644)
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    if certificates.exists():
        tar.add(certificates.resolve(), str(certificates).lstrip("/"))

    native: list[Path] = []
    for source, target in (*interpreter(), *packages()):
        if source.suffix == ".so" or ".so." in source.name or target.parent == PREFIX / "bin":
            native.append(source)
        add_file(tar, source, target)
    for name in PROGRAMS:
        if found := shutil.which(name, path="/bin:/usr/bin"):
            native.append(Path(found))
            add_file(tar, Path(found).resolve(), Path("/usr/bin") / name)
    for library, target in libraries(native):
        add_file(tar, library, target)


def interpreter() -> Iterator[tuple[Path, Path]]:
    """The interpreter and its standard library, as (file here, path in the image)."""
    yield Path(os.path.realpath(sys.executable)), PREFIX / "bin/python3"
    yield Path(os.path.realpath(sys.executable)), PREFIX / "bin/python"
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    for path in files_below(stdlib):
        inside = path.relative_to(stdlib)
        if inside.parts[0] not in STDLIB_WITHOUT and not inside.parts[0].startswith("config-"):
            yield path, STDLIB / inside


def packages() -> Iterator[tuple[Path, Path]]:
    """Every installed package but this project's own, and their scripts."""
    paths = sysconfig.get_paths()
    for folder in dict.fromkeys((paths["purelib"], paths["platlib"])):
        for path in files_below(Path(folder)):
            inside = path.relative_to(folder)
            if not WITHOUT.match(str(inside)):
                yield path, STDLIB / "site-packages" / inside
    for path in sorted(Path(paths["scripts"]).iterdir()):
        script = path.is_file() and not path.is_symlink() and not path.name.startswith(("python", "tfship", "activate"))
        if script:
            yield path, PREFIX / "bin" / path.name


def libraries(native: list[Path]) -> Iterator[tuple[Path, Path]]:
    """The system's libraries that `native` loads, with the loader, as (file here, path in the image).

    Libraries that packages carry along are in the image already. The interpreter's own, which may lie anywhere here,
    goes beside the C library, where the loader looks without being told.
    """
    wanted: set[Path] = set()
    own = (Path(sysconfig.get_paths()["purelib"]), Path(sysconfig.get_paths()["platlib"]))
    for start in range(0, len(native), 100):
        listed = subprocess.run(["ldd", *native[start : start + 100]], capture_output=True, text=True, check=False)
        for name, arrow in re.findall(r"^\s+(\S+)(?: => (/\S+))? \(0x", listed.stdout, re.MULTILINE):
            path = Path(arrow or name)
            if path.is_absolute() and not any(path.is_relative_to(folder) for folder in own):
                wanted.add(path)
    c_library = next(path for path in wanted if path.name == "libc.so.6").parent
    beside = Path("/usr") / c_library.relative_to("/usr" if c_library.is_relative_to("/usr") else "/")
    for name in ("libgcc_s.so.1", "libstdc++.so.6"):  # loaded by name at run time
        if (c_library / name).exists():
            wanted.add(c_library / name)
    for path in sorted(wanted):
        target = path if path.name.startswith("ld-") else beside / path.name
        yield path.resolve(), target


def files_below(folder: Path) -> Iterator[Path]:
    """Files and links to files under `folder`, in a fixed order."""
    for current, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(current, name) for name in sorted(names))


def add_file(tar: tarfile.TarFile, source: Path, target: Path) -> None:
    """One file, owned by root. A script's first line is led to the image's interpreter; a source keeps its time."""
    entry = tar.gettarinfo(str(source.resolve()), str(target).lstrip("/"))
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode |= 0o555 if entry.mode & 0o100 else 0o444  # whatever the umask under which it was installed
    if target.parent == PREFIX / "bin" and source.read_bytes()[:2] == b"#!":
        content = re.sub(rb"\A#!.*python.*", f"#!{PREFIX}/bin/python3".encode(), source.read_bytes())
        add_bytes(tar, target, content, 0o755)
        return
    if entry.islnk():  # a hard link's other name may not be in the image
        entry.type, entry.size = tarfile.REGTYPE, source.stat().st_size
    with source.open("rb") as content_stream:
        tar.addfile(entry, content_stream)


def add_bytes(tar: tarfile.TarFile, target: Path, content: bytes, mode: int) -> None:
    """A file from memory."""
    entry = tarfile.TarInfo(str(target).lstrip("/"))
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def add_folder(tar: tarfile.TarFile, target: Path, mode: int) -> None:
    """An empty folder."""
    entry = tarfile.TarInfo(str(target))
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    tar.addfile(entry)


class StreamedTar:
    """A tar stream that is written while it is read: the archive never lies on disk."""

    def __init__(self, write: Callable[[tarfile.TarFile], None]) -> None:
        self.write = write
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Iterator[bytes]:
        reader, writer = os.pipe()
        self.reader, self.writer = os.fdopen(reader, "rb", buffering=0), os.fdopen(writer, "wb", buffering=0)
        self.thread.start()
        return iter(lambda: self.reader.read(BLOCK), b"")  # the file itself would be sent line by line

    def __exit__(self, *_: object) -> None:
        self.reader.close()
        self.thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            with self.writer, tarfile.open(mode="w|", fileobj=self.writer, bufsize=BLOCK) as tar:
                tar.copybufsize = BLOCK  # type: ignore[attr-defined, unused-ignore]  # missing in typeshed
                self.write(tar)
        except BaseException as error:  # carried to the thread that waits
            self.error = error


IMAGES: dict[str, Callable[[Any], str]] = {
    "base": base,
    "serving": serving,
    "misbehaving": misbehaving,
    "worker": worker,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("image", choices=IMAGES)
    client = docker.from_env(timeout=600)
    print(IMAGES[parser.parse_args().image](client))
    # An image that lost its name to a newer one holds 2 GB.
    client.images.prune(filters={"dangling": True, "label": CONTENT_LABEL})


if __name__ == "__main__":
    main()
