"""The images below a folder, and what there is beside them and why it is left out.

N number of images
"""

import dataclasses
import functools
import os
import stat
from collections.abc import Iterator
from typing import Any

from moco_jax.data.formats import EXTENSIONS
from moco_jax.data.patience import for_each, waiting_for
from moco_jax.data.summary import LeftOut
from moco_jax.errors import InputError
from moco_jax.files import is_trouble, retrying

_LISTERS = 16  # folders listed at a time: on a network, listing is waiting
# Folders that systems make beside images: of Synology, macOS, QNAP, Windows, Linux, Python.
SYSTEM_FOLDERS = {
    *("@eadir", "@tmp", "@recently-snapshot", "__macosx", "#recycle", "#snapshot", "@recycle"),
    *("$recycle.bin", "system volume information", "lost+found", "__pycache__"),
}
SYSTEM_FILES = {"thumbs.db", "desktop.ini", "ehthumbs.db"}
# Files of which a folder may consist without being a class whose images cannot be read.
_TEXTS = {
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".md", ".html"),
    *(".htm", ".py", ".ipynb", ".sh", ".log", ".ini", ".cfg", ".pdf", ".db", ".lnk", ".url"),
    *(".pt", ".pth", ".pkl", ".m", ".r", ".rst", ".doc", ".docx", ".xls", ".xlsx"),
}
IMAGE, FOLDER = "image", "folder"
DANGLING, UNREADABLE, LOOP = "links that lead nowhere", "folders that cannot be read", "link loops"
NO_FILE, SYSTEM = "pipes, sockets or devices", "system folders"
HIDDEN, EMPTY = "hidden files and folders", "folders without images"
FLEETING = (DANGLING, UNREADABLE)  # these may be mended without a trace in the folders' times


@dataclasses.dataclass
class Listing:
    """What is below a folder.

    Attributes:
      images: paths of images, below the root.
      times: each folder below the root with its modification time in ns.
      left_out: everything else.
    """

    images: list[str] = dataclasses.field(default_factory=list)
    times: dict[str, int] = dataclasses.field(default_factory=dict)
    left_out: LeftOut = dataclasses.field(default_factory=LeftOut)


def kind(entry: os.DirEntry) -> str:
    """IMAGE, FOLDER, or the reason why an entry of a folder is left out."""
    name = entry.name.lower()
    if name.startswith("."):
        return HIDDEN
    if name in SYSTEM_FILES:
        return "system files"
    try:
        if entry.is_dir():
            return SYSTEM if name in SYSTEM_FOLDERS else FOLDER
        # Where it is no link, listing the folder has told all this already.
        if entry.is_symlink() and not os.path.exists(entry.path):
            return DANGLING
        extension = os.path.splitext(name)[1]
        if extension not in EXTENSIONS:
            return f"{extension} files" if extension else "files without an extension"
        return IMAGE if entry.is_file() else NO_FILE
    except OSError:  # links in a circle
        return DANGLING


def scan(where: str) -> list[tuple[str, str]]:
    """Name and kind of each entry of a folder, by name."""
    return sorted((entry.name, what) for entry, what in _entries(where))


def _entries(where: str) -> Iterator[tuple[os.DirEntry, str]]:
    """The entries of a folder, each with its kind, as they come."""
    with waiting_for(where) as it_lives, os.scandir(where) as entries:
        for entry in entries:
            yield entry, kind(entry)
            it_lives()


def status(path: str) -> os.stat_result:
    """What `os.stat` says of a folder."""
    with waiting_for(path):
        return os.stat(path)


def subfolders(root: str) -> list[str]:
    """Names of the folders in `root` that are neither hidden nor a system's, by name."""
    return [name for name, what in scan(root) if what == FOLDER]


def holds_image(root: str, deep: bool = True) -> bool:
    """Whether there is an image in a folder, or anywhere below; the first that is found ends it.

    Args:
      root: folder.
      deep: whether folders in it count.
    """
    left, seen = [root], set()
    while left:
        where = left.pop()
        try:
            if (at := _identity(where)) in seen:
                continue
            seen.add(at)
            for entry, what in _entries(where):
                if what == IMAGE:
                    return True
                if what == FOLDER and deep:
                    left.append(entry.path)
        except OSError:
            continue
    return False


def list_classes(root: str) -> tuple[list[str], dict[str, list[str]], Listing]:
    """Lists a split.

    Returns:
      Images in the folder itself; for each sub-folder with images their paths below the root; and
      a Listing of all that is there, whose images are left empty.

    Raises:
      InputError: a sub-folder has files but not one image, or cannot be read: a class would
        vanish.
    """
    everything = Listing(times={"": status(root).st_mtime_ns})  # before the listing
    entries = scan(root)
    direct = [name for name, what in entries if what == IMAGE]
    for name, what in entries:
        if what == DANGLING and not name.lower().endswith(EXTENSIONS):
            raise InputError(f"folder:{os.path.join(root, name)} is a link that leads nowhere")
        if what not in (IMAGE, FOLDER):
            everything.left_out.note(what, name)
    names, by_class = [name for name, what in entries if what == FOLDER], {}
    above = frozenset([_identity(root)])
    listings = for_each(functools.partial(walk, root, above=above), names, _LISTERS)
    for name, listing in zip(names, listings):
        everything.times |= listing.times
        everything.left_out.add(listing.left_out)
        if listing.images:
            by_class[name] = listing.images
        else:
            _check_vanished(os.path.join(root, name), listing)
            everything.left_out.note(EMPTY, name)
    return direct, by_class, everything


def walk(root: str, folder: str, above: frozenset[Any] = frozenset()) -> Listing:
    """Lists a folder of `root` at any depth, its images sorted; `above` are folders it lies in."""
    listing, left = Listing(), [(folder, above)]
    while left:
        below, above = left.pop()
        try:
            for name, what in _enter(root, below, above, listing):
                path = os.path.join(below, name)
                if what == IMAGE:
                    listing.images.append(path)
                elif what == FOLDER:
                    left.append((path, above | {_identity(os.path.join(root, below))}))
                else:
                    listing.left_out.note(what, path)
        except OSError:
            listing.left_out.note(UNREADABLE, below)
    listing.images.sort()
    return listing


def _enter(
    root: str, below: str, above: frozenset[Any], listing: Listing
) -> Iterator[tuple[str, str]]:
    """The entries of a folder, unless it is one of those that it lies in: a loop of links."""
    where = os.path.join(root, below)
    if _identity(where) in above:
        listing.left_out.note(LOOP, below)
        return iter(())
    listing.times[below] = status(where).st_mtime_ns  # before the listing: what comes later shows
    return iter(scan(where))


def _identity(folder: str) -> tuple[int, int]:
    found = status(folder)
    return found.st_dev, found.st_ino


def _check_vanished(folder: str, listing: Listing) -> None:
    """Refuses a folder that holds something, but nothing that is read."""
    texts = {HIDDEN, SYSTEM, "system files", LOOP, *(f"{end} files" for end in _TEXTS)}
    odd = LeftOut({what: found for what, found in listing.left_out.items() if what not in texts})
    if odd:
        raise InputError(
            f"folder:{folder} holds no image that is read, and its class would vanish; it holds "
            f"{odd}; expected files ending in {', '.join(EXTENSIONS)}. Rename or "
            "convert them, or move the folder away"
        )


def read_again(path: str | os.PathLike, name: str = "") -> bytes:
    """The content of a file, tried again where the machine's trouble may pass.

    Args:
      path: of the file.
      name: what errors call it; "": its path.

    Raises:
      OSError: there is no such file, or it is none.
      StorageError: the trouble remains.
    """
    return retrying(f"reading {name or path}", lambda: read_file(path), is_trouble)


def read_file(path: str | os.PathLike, most: int = -1) -> bytes:
    """The content of a file; a pipe or a device is an error instead of a wait without end.

    Args:
      path: of the file.
      most: bytes from its begin; -1: all.

    Raises:
      OSError: there is no such file, or it is none.
    """
    # Opened so, a pipe without a writer does not block.
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb", 0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("no regular file, but a pipe, socket, device or folder")
        return file.read(most)
