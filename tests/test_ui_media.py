"""Pictures, encoder, recording, palette: what leaves the server as media."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from cf_app.ui.encoder import ChunkEncoder, mime_type
from cf_app.ui.palette import PALETTE, PromptColors, css_variables, preferred_color
from cf_app.ui.picture import Picture
from cf_app.ui.recording import Recording


def moving_bar(height: int = 80, width: int = 128, frames: int = 12) -> np.ndarray:
    video = np.full((frames, height, width, 3), (30, 60, 90), np.uint8)
    for index in range(frames):
        video[index, :, index * 8 : index * 8 + 24] = (220, 120, 40)
    return video


def decoded(mp4: bytes) -> tuple[list[float], np.ndarray]:
    with av.open(io.BytesIO(mp4)) as container:
        pictures = list(container.decode(video=0))
    return [float(p.pts * p.time_base) for p in pictures], np.stack([p.to_ndarray(format="rgb24") for p in pictures])


@pytest.mark.parametrize("codec", ["h264", "vp9"])
def test_a_chunk_is_one_self_contained_film_that_starts_with_a_key_picture(codec):
    mp4 = ChunkEncoder(80, 128, 16, codec).encode(moving_bar())
    times, pictures = decoded(mp4)
    assert times == [i / 16 for i in range(12)]
    assert pictures.shape == (12, 480, 768, 3)
    assert mp4.count(b"moof") == 1 and mp4[4:8] == b"ftyp"
    with av.open(io.BytesIO(mp4)) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert keys == [True] + [False] * 11
    assert mime_type(mp4).startswith('video/mp4; codecs="' + {"h264": "avc1.42", "vp9": "vp09.00"}[codec])


def test_enlarged_edges_are_steep_in_place_and_colours_stay():
    _, pictures = decoded(ChunkEncoder(80, 128, 16).encode(moving_bar()))
    row = pictures[0, 240].astype(int)  # the edge at source pixel 24 is at 144
    assert np.abs(row[20:130] - (220, 120, 40)).max() < 14 and np.abs(row[160:] - (30, 60, 90)).max() < 14
    red = row[:, 0]
    assert abs(int(np.argmin(np.abs(red - 125))) - 144) <= 2
    assert ((red > 50) & (red < 200)).sum() <= 6, "an edge is at most one source pixel wide"


def test_a_ramp_stays_a_ramp():
    ramp = np.repeat(np.linspace(40, 200, 128).astype(np.uint8)[None, :, None], 80, 0).repeat(3, 2)[None]
    luma = Picture(80, 128).frames(ramp)[0].to_ndarray()[240, 20:-20].astype(int)
    assert (np.diff(luma) >= -1).all() and np.diff(luma).max() <= 4


@pytest.mark.parametrize(
    ("height", "width"), [(80, 128), (96, 160), (128, 128), (45, 81), (240, 416), (480, 832), (720, 1280)]
)
def test_shown_sizes_keep_the_aspect_and_are_even(height, width):
    picture = Picture(height, width)
    frame = picture.frames(np.zeros((1, height, width, 3), np.uint8))[0]
    assert (frame.height, frame.width) == (picture.shown_height, picture.shown_width)
    assert frame.height % 2 == frame.width % 2 == 0 and frame.height >= min(height - 1, 380)
    assert frame.width / frame.height == pytest.approx(width / height, rel=0.02)


def test_frames_of_another_size_are_refused_by_name():
    with pytest.raises(ValueError, match=r"uint8 \(12, 64, 128, 3\).*80, 128, 3"):
        ChunkEncoder(80, 128, 16).encode(moving_bar(height=64))
    with pytest.raises(ValueError, match="codec is 'av2'"):
        ChunkEncoder(80, 128, 16, "av2")


def test_recording_gives_back_chunks_and_joins_them(tmp_path):
    encoder = ChunkEncoder(80, 128, 16)
    chunks = [encoder.encode(moving_bar() // (1 + i)) for i in range(4)]
    recording = Recording(tmp_path / "chunks.bin", 16)
    for chunk in chunks:
        recording.add(chunk)
    assert [recording.read(i) for i in range(4)] == chunks
    times, pictures = decoded(recording.export(tmp_path / "film.mp4", 2).read_bytes())
    assert times == pytest.approx([i / 16 for i in range(36)])
    assert np.array_equal(pictures[24:], decoded(chunks[2])[1]), "joined, not encoded again"
    with pytest.raises(ValueError, match="chunk 4 is not recorded; this run has 4"):
        recording.read(4)
    recording.close()
    recording.close()
    assert not (tmp_path / "chunks.bin").exists()


def test_nothing_shown_is_nothing_to_download(tmp_path):
    recording = Recording(tmp_path / "chunks.bin", 16)
    with pytest.raises(ValueError, match="press play first"):
        recording.export(tmp_path / "film.mp4", 0)
    assert not (tmp_path / "film.mp4").exists()


def test_colours_are_stable_and_differ_while_there_are_free_ones():
    colors = PromptColors()
    prompts = [f"a scene number {i}" for i in range(len(PALETTE))]
    numbers = [colors.number(prompt) for prompt in prompts]
    assert sorted(numbers) == list(range(len(PALETTE)))
    assert [colors.number(f"  {p.upper()} ") for p in prompts] == numbers
    assert numbers[0] == preferred_color(prompts[0])
    more = [colors.number(f"another {i}") for i in range(len(PALETTE))]
    assert sorted(more) == list(range(len(PALETTE))), "then every colour is used twice before any is used three times"


def test_every_colour_is_in_the_style_sheet_twice():
    css = css_variables()
    assert all(css.count(f"--cf-p{i}:") == 2 for i in range(len(PALETTE)))
