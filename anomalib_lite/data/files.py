"""List the image files of a folder: one rule for every function that takes a folder.

Image files are those whose suffix, in any case, is in `IMAGE_SUFFIXES`, at any depth, sorted by
path. Hidden files and folders (names that begin with a dot) and what operating systems, network
drives and editors leave behind (``__MACOSX``, ``@eaDir``, ``$RECYCLE.BIN``, ...) are skipped below
the folder, whatever the folder itself is called. Links are followed; a folder that can be reached
in several ways is read once, so that a cycle of links ends. Files that look like images of a kind
that is not read, or that have an unusual suffix, are left out with a warning that counts them.
"""

import os
import stat
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from ..annotations import Path as PathLike
from ..notices import warn_user

IMAGE_SUFFIXES = frozenset(
    ".apng .bmp .dib .gif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pfm .pgm "
    ".png .pnm .ppm .tif .tiff .webp".split()
)
HEIF_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
HEIF_ADVICE = (
    "HEIC and HEIF files are read after `pip install pillow-heif` and "
    "`pillow_heif.register_heif_opener()`."
)

_OTHER_IMAGES = HEIF_SUFFIXES | frozenset(
    # photographs and drawings
    ".ai .avif .avifs .bpg .dds .djvu .emf .eps .exr .hdr .icns .ico .jp .jxl .jxr .pcx .pdf .psb "
    ".psd .qoi .ras .rgb .rgba .sgi .svg .svgz .tga .wdp .wmf .xcf "
    # raw files of cameras
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf "
    ".raw .rw2 .rwl .sr2 .srf .srw .x3f "
    # science and medicine
    ".czi .dcm .dicom .fit .fits .fts .h5 .hdf5 .img .lif .mat .mha .mhd .mrc .nd2 .ndpi .nii .npy "
    ".npz .nrrd .spe .svs .vsi "
    # films
    ".avi .m4v .mkv .mov .mp4 .mpeg .mpg .webm .wmv".split()
)
_TEXTS = frozenset(
    ".cfg .csv .db .htm .html .ini .ipynb .json .jsonl .log .md .py .toml .tsv .txt .xml .yaml "
    ".yml".split()
)
_SIGNATURES = (  # of files that are read when they are named
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ",
)  # fmt: skip
_LEFT_BEHIND = frozenset({
    "$recycle.bin", "#recycle", "#snapshot", "@eadir", "@recently-snapshot", "@recycle",
    "@sharebin", "@sharesnap", "@tmp", "__macosx", "lost+found", "network trash folder",
    "recycled", "recycler", "system volume information", "temporary items",
    "thevolumesettingsfolder",
})  # fmt: skip


def image_files(folder: PathLike) -> list[str]:
    """Sorted paths of all image files below a folder.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    paths : list of str
        At least one.

    Raises
    ------
    ValueError
        If ``folder`` is no folder, or holds no image file.

    Warns
    -----
    UserWarning
        If files that look like images, but are of a kind that is not read, are left out.
    """
    folder = os.fsdecode(folder)
    _check_folder(folder)
    paths, left_out = scan(folder)
    if not paths:
        raise ValueError(
            f"X: no image files below {folder}. Supported suffixes: "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}.{describe(left_out, ' Not read: ')}"
        )
    warn_of(left_out, folder)
    return paths


def scan(folder: PathLike) -> tuple[list[str], Counter[str]]:
    """Sorted paths of the image files below a folder, and what is left out: files by suffix."""
    paths, left_out = [], Counter()
    for path in _walk(folder):
        suffix = path.suffix.lower()
        if is_image_suffix(suffix):
            paths.append(str(path))
        elif suffix in _OTHER_IMAGES or (suffix not in _TEXTS and _begins_like_image(path)):
            left_out[suffix or "no suffix"] += 1
    return sorted(paths), left_out


def present_image_files(folder: PathLike) -> list[str]:
    """Sorted paths of the image files below a folder, by name alone; there may be none.

    No file is opened, so that nobody who writes or renames one is in the way.
    """
    return sorted(str(path) for path in _walk(folder) if is_image_suffix(path.suffix.lower()))


def is_image_suffix(suffix: str) -> bool:
    """Whether files with a suffix, in lower case, are read as images."""
    return suffix in IMAGE_SUFFIXES or (suffix in HEIF_SUFFIXES and reads_heif())


def warn_of(left_out: Counter[str], folder: PathLike) -> None:
    """Warn if files were left out."""
    if left_out:
        words = describe(left_out, ": ")
        warn_user(f"{folder}: files that look like images are left out{words}")


def describe(left_out: Counter[str], before: str) -> str:
    """How many files of which suffix were left out, and what to do; "" where none was."""
    if not left_out:
        return ""
    counts = ", ".join(f"{suffix}: {n}" for suffix, n in sorted(left_out.items()))
    advice = HEIF_ADVICE if HEIF_SUFFIXES & {*left_out} else "Convert them, or name them in a list."
    return f"{before}{counts}. {advice}"


def subfolders(folder: PathLike) -> list[Path]:
    """Folders directly inside a folder, sorted by name; links to folders count."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not is_hidden(entry.name) and entry.is_dir()]
    return [Path(folder, name) for name in sorted(names)]


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is skipped.

    Examples
    --------
    >>> [is_hidden(name) for name in (".ipynb_checkpoints", "@eaDir", "scratch")]
    [True, True, False]
    """
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def reads_heif() -> bool:
    """Whether a plugin for HEIC and HEIF files was registered with Pillow."""
    return "HEIF" in Image.OPEN


def _begins_like_image(path):
    try:
        if not path.is_file():  # opening a pipe would wait forever
            return False
        with open(path, "rb") as file:
            return file.read(8).startswith(_SIGNATURES)
    except OSError:
        return False


def _check_folder(folder):
    if not folder:
        raise ValueError("X: expected the path of a folder, got an empty string.")
    try:
        is_folder = stat.S_ISDIR(os.stat(folder).st_mode)
    except PermissionError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(f"X: the folder {folder} does not exist: {error}.") from error
    if not is_folder:
        raise ValueError(f"X: expected a folder, got the file {folder}. Pass a list: [path].")


def _walk(folder) -> Iterator[Path]:
    """All files below a folder that are not hidden; links are followed last."""
    starts, entered, top = deque([folder]), set(), os.path.realpath(folder)
    while starts:
        for where, folders, names in os.walk(starts.popleft(), onerror=_raise):
            real = os.path.realpath(where)
            if real in entered:
                folders.clear()
                continue
            entered.add(real)
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            for path in (os.path.join(where, name) for name in folders):
                if os.path.islink(path) and not _is_above(os.path.realpath(path), top):
                    starts.append(path)
            yield from (Path(where, name) for name in names if not is_hidden(name))


def _is_above(folder, top):
    return Path(top).is_relative_to(folder)


def _raise(error):
    raise error  # an unreadable folder is an error
