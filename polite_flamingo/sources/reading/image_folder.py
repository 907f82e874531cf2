"""The images below a folder, read by the names that annotations give them.

Names come from strangers. None can lead out of the folder: not by `..`, not by an absolute path elsewhere, not
through a symbolic link. Nothing here opens a connection (`download.py` does, when asked to).
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from polite_flamingo.images.decoding import EXTENSION_OF, Header, inspect
from polite_flamingo.sample import BadSample, Image
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.image_paths import other_spellings, path_below
from polite_flamingo.storage.remote_path import open_at_random
from polite_flamingo.storage.visibility import refuse_broken_mount

MAX_IMAGE_BYTES = 100 << 20
"""A larger file is not read at all; the largest image of the source datasets has 30 MB."""


@dataclass(frozen=True)
class ImageFolder:
    """The image files under `root`.

    It reads headers, never pixels: the job that decodes the images finds those that do not decode.
    """

    root: Path | None
    _archives: dict[Path, zipfile.ZipFile] = field(default_factory=dict)
    _folders: dict[Path, bool] = field(default_factory=dict)

    @staticmethod
    def of(images: Path | None) -> ImageFolder:
        """Open a folder of images. Raises `SourceError` if it is not given or does not exist."""
        if images is None:
            raise SourceError("this source needs its images: pass their folder with --images")
        if not images.is_dir():
            raise SourceError(f"{images} is not a folder: pass the folder of the images with --images")
        return ImageFolder(images)

    def read(self, *names: str) -> tuple[Image, Header]:
        """Read the first of `names` that exists.

        Raises:
            BadSample: `missing_image`, `unsafe_name`, `image_too_large`, or what `images.inspect` says of its header.
        """
        path = self.locate(*names)
        return _read(path, path.name)

    def locate(self, *names: str) -> Path:
        """Return the path of the first of `names` that is a file inside the folder."""
        if self.root is None:
            raise BadSample("missing_image", "the record has an image and no image folder is given: pass --images")
        root = self.root
        as_given = (path_below(name, root) for name in names)
        others = (spelling for name in names for spelling in other_spellings(path_below(name, root), root))
        for spelling in chain(as_given, others):
            path = root / spelling
            try:
                if path.is_file():
                    if not self._inside(path):
                        what = f"{spelling[:80]!r} is a link that leads out of the image folder"
                        raise BadSample("unsafe_name", what)
                    return path
            except (OSError, ValueError) as error:  # a name that the file system rejects
                refuse_broken_mount(path, error)
                if isinstance(error, BadSample):
                    raise
        raise BadSample("missing_image", f"none of {', '.join(names)[:200]} is in the image folder")

    def read_part(self, name: str, offset: int, size: int) -> tuple[Image, Header]:
        """Like `read`, but `size` bytes from `offset` on: a member of an uncompressed tar."""
        return _read(self.locate(name), f"{name}@{offset}", offset, size)

    def _inside(self, path: Path) -> bool:
        """Whether a file lies inside. Folders are resolved once: resolving costs as much as reading an image."""
        if path.is_symlink():
            return self._beneath(path)
        if path.parent not in self._folders:
            self._folders[path.parent] = self._beneath(path.parent)
        return self._folders[path.parent]

    def _beneath(self, path: Path) -> bool:
        return self.root is not None and path.resolve().is_relative_to(self.root.resolve())

    def read_from_zip(self, archive: str, member: str) -> tuple[Image, Header]:
        """Like `read`, from a zip in the folder; nothing is extracted to disk."""
        path = self.locate(archive)
        try:
            if path not in self._archives:
                self._archives[path] = zipfile.ZipFile(open_at_random(path))
            info = self._archives[path].getinfo(member)
            if info.file_size > MAX_IMAGE_BYTES:
                raise BadSample("image_too_large", f"{archive}@{member}: {info.file_size} bytes when unpacked")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise BadSample("unsupported", f"{archive}@{member} is compressed, but not by deflate")
            data = self._archives[path].read(info)
        except BadSample:
            raise
        except KeyError:
            raise BadSample("missing_image", f"{archive} holds no {member[:80]!r}") from None
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
            refuse_broken_mount(path, error)
            raise BadSample("corrupt_image", f"{archive}@{member[:80]}: {type(error).__name__}: {error}") from None
        return checked_image(data, f"{archive}@{member}")


def _read(path: Path, what: str, offset: int = 0, size: int | None = None) -> tuple[Image, Header]:
    """Read the image in `size` bytes of a file from `offset` on, or in the whole file; errors call it `what`."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size if size is None else size
            if not 0 <= size <= MAX_IMAGE_BYTES:
                raise BadSample("image_too_large", f"{what}: {size} bytes, at most {MAX_IMAGE_BYTES} are read")
            file.seek(offset)
            data = file.read(size)
    except BadSample:
        raise
    except (OSError, ValueError, OverflowError) as error:
        refuse_broken_mount(path, error)
        raise BadSample("missing_image", f"{what} cannot be read: {getattr(error, 'strerror', '') or error}") from None
    if len(data) < size:
        raise BadSample("corrupt_image", f"{what}: the file ends after {len(data)} of {size} bytes")
    return checked_image(data, what)


def checked_image(data: bytes, name: str) -> tuple[Image, Header]:
    """Check the size and the header of an image; return the image and its header. Errors call it `name`."""
    if len(data) > MAX_IMAGE_BYTES:
        raise BadSample("image_too_large", f"{name} has {len(data)} bytes, at most {MAX_IMAGE_BYTES} are read")
    try:
        header = inspect(data)
    except BadSample as bad:
        raise BadSample(bad.reason, f"{name}: {bad.detail}") from None
    return Image(extension=EXTENSION_OF[header.format], data=data), header
