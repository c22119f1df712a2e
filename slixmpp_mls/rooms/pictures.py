"""A picture's preview in about 25 octets: its size and a thumbhash, which clients show before the picture is fetched.

slidge and Movim send thumbhashes as a thumbnail of XEP-0264 with a URI of the scheme ``data``.  This needs the extra
``pictures`` (Pillow, thash); without it, pictures are sent as other files are.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..stanza.file_sharing import Thumbnail

__all__ = ["Picture", "look_at"]

log = logging.getLogger(__name__)

_MOST: Final = 50_000_000  # octets: larger ones are not examined
_MOST_PIXELS: Final = 100_000_000
_ORIENTATION: Final = 0x0112  # EXIF 2.32 4.6.5; from 5 on, the sides are swapped
_SIDE: Final = 50  # pixels from which the hash is made: more would not change it visibly


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, upright.

    :ivar width: pixels
    :ivar height: pixels
    """

    width: int
    height: int
    thumbnail: Thumbnail | None


def look_at(content: Path | bytes) -> Picture | None:
    """The preview; None if it is no picture, too large a picture, or the extra is not installed."""
    try:
        import thash
        from PIL import Image, ImageOps
    except ImportError:
        return None
    try:
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        if size > _MOST:
            return None
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
            if image.width * image.height > _MOST_PIXELS:
                return None
            size_there = image.size
            image.draft("RGB", (4 * _SIDE, 4 * _SIDE))  # a JPEG is decoded small
            turned = ImageOps.exif_transpose(image)
            swapped = image.getexif().get(_ORIENTATION, 1) >= 5
            turned.thumbnail((_SIDE, _SIDE))
            data = bytes(thash.encode(turned, target_size=_SIDE))
            width, height = reversed(size_there) if swapped else size_there
    except Exception as error:  # Pillow raises many kinds of errors for bad files; a preview is optional
        log.debug("no thumbnail: %s", type(error).__name__)
        return None
    return Picture(width, height, Thumbnail("image/thumbhash", data))
