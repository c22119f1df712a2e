"""What a picture looks like in a message, and files that are none."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import thash
from PIL import Image

from slixmpp_mls.rooms import pictures
from slixmpp_mls.rooms.pictures import look_at


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_size_and_colour(kind: str, tmp_path: Path) -> None:
    data = encoded(Image.new("RGB", (640, 320), (200, 30, 30)), kind)
    (tmp_path / "picture").write_bytes(data)
    for content in (data, tmp_path / "picture"):
        found = look_at(content)
        assert found is not None
        assert (found.width, found.height) == (640, 320)
        assert found.thumbnail is not None
        assert found.thumbnail.media_type == "image/thumbhash"
        assert len(found.thumbnail.data) < 40
        average = thash.thumb_hash_to_average_rgba(list(found.thumbnail.data))
        assert average is not None
        red, green, blue, alpha = average
        assert red > 0.6
        assert max(green, blue) < 0.3
        assert alpha == 1


def test_a_picture_that_lies_on_its_side() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    found = look_at(encoded(Image.new("RGB", (640, 320)), "JPEG", exif=exif))
    assert found is not None
    assert (found.width, found.height) == (320, 640)


def test_files_that_are_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = encoded(Image.new("RGB", (64, 32)), "PNG")
    for data in (b"", b"text", good[:40], good[:-20], b"<svg xmlns='http://www.w3.org/2000/svg'/>"):
        assert look_at(data) is None
    assert look_at(tmp_path / "none") is None
    monkeypatch.setattr(pictures, "_MOST_PIXELS", 2000)
    assert look_at(good) is None
    monkeypatch.undo()
    monkeypatch.setattr(pictures, "_MOST", 10)
    assert look_at(good) is None


def test_without_the_extra_pictures_are_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "thash", None)
    assert look_at(encoded(Image.new("RGB", (64, 32)), "PNG")) is None
