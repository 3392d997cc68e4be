"""HYPIR Restore Video: all frames, their times and their sound, with the memory of one slice."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

RATE = 8
SOUND_RATE = 16000
SIZE = (32, 48)


def write_clip(file, images, times=None, codec="aac", container=None, video="libx264") -> None:
    """A clip of these (n, H, W, 3) levels in BT.709, with a tone of the same length."""
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(video, rate=RATE)
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "yuv444p"
        stream.options = {"crf": "1"} if video == "libx264" else {}
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.colorspace = 1
        sound = out.add_stream(codec, rate=SOUND_RATE, layout="stereo") if codec else None
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = frame.reformat(format="yuv444p", dst_colorspace=1)
            frame.pts = int(1000 * (i / RATE if times is None else times[i]))
            frame.time_base = Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound is not None:
            resampler = av.audio.resampler.AudioResampler(sound.codec_context.format, "stereo")
            for start in range(0, SOUND_RATE * len(images) // RATE, 1024):
                out.mux([p for f in resampler.resample(tone(start)) for p in sound.encode(f)])
            out.mux(sound.encode(None))


def tone(start: int) -> av.AudioFrame:
    wave = 0.3 * np.sin(2 * np.pi * 440 * (start + np.arange(1024)) / SOUND_RATE)
    frame = av.AudioFrame.from_ndarray(np.stack([wave, -wave]).astype("f4"), "fltp", "stereo")
    frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, start, Fraction(1, SOUND_RATE)
    return frame


def greys(count: int, size=SIZE) -> np.ndarray:
    """Frames whose level says which they are."""
    levels = (np.arange(count) * 140 // count + 60).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(levels[:, None, None, None], (count, *size, 3)))


def load(file, **trim):
    from comfy_api.latest import InputImpl

    return InputImpl.VideoFromFile(file if isinstance(file, io.BytesIO) else str(file), **trim)


def times_of(video) -> list[float]:
    with av.open(video.get_stream_source()) as file:
        return [float(frame.pts * frame.time_base) for frame in file.decode(video=0)]


def packets_of(video) -> list[bytes]:
    with av.open(video.get_stream_source()) as file:
        return [bytes(packet) for packet in file.demux(audio=0) if packet.size]


@pytest.fixture
def restored(run, sd2, vae, prompt):
    """A function that restores a VIDEO, with small defaults."""

    def call(video, **inputs):
        inputs = {"scale": 1.0, "frames": 4} | inputs
        return run("HYPIRRestoreVideo", video, sd2, prompt, vae, **inputs)

    return call


def frames_of(video) -> torch.Tensor:
    return video.get_components().images


def test_every_frame_comes_back_at_its_time_with_its_sound(restored, tmp_path):
    times = [0.0, 0.1, 0.2, 0.5, 0.625, 0.75, 0.8, 1.0, 1.25, 1.3]  # no constant rate
    write_clip(tmp_path / "in.mp4", greys(10), times)
    source = load(tmp_path / "in.mp4")
    result = restored(source, scale=2.0)
    images = frames_of(result)
    assert images.shape == (10, 64, 96, 3)
    want = frames_of(source).mean((1, 2, 3))
    assert (images.mean((1, 2, 3)) - want).abs().max() < 0.02
    assert times_of(result) == pytest.approx(times, abs=1e-3)
    assert packets_of(source) == packets_of(result), "the sound is copied"


def test_a_frame_is_what_the_nodes_make_of_it(run, sd2, vae, prompt, restored, photo, tmp_path):
    picture = photo[0, 64:96, 64:112].mul(255).byte().numpy()
    write_clip(tmp_path / "in.mkv", np.stack([picture] * 3), codec=None)
    source = load(tmp_path / "in.mkv")
    image = frames_of(source)[:1]
    latent = run("HYPIRInjectNoise", sd2, run("HYPIREncode", image, vae), 0.3, 7)
    latent = run("HYPIRRestore", sd2, prompt, latent)
    want = run("HYPIRDecode", latent, vae, image)
    got = frames_of(restored(source, noise=0.3, seed=7))
    assert len(got) == 3
    # between them are 8 bits, and one colour for every four pixels
    blocks = [torch.nn.functional.avg_pool2d(x.movedim(-1, 1), 8) for x in (got, want)]
    assert (blocks[0] - blocks[1]).abs().max() < 0.05
    assert (got.mean((1, 2)) - want.mean((1, 2))).abs().max() < 0.01, "colours keep their matrix"
    assert (got - got[:1]).abs().mean() < 0.01, "what stands still does not boil"


def test_the_size_of_a_slice_changes_memory_and_not_the_result(
    restored, vae, tmp_path, monkeypatch
):
    write_clip(tmp_path / "in.mp4", greys(7))
    held = []
    encode = type(vae).encode
    monkeypatch.setattr(
        type(vae), "encode", lambda self, px, *a: held.append(len(px)) or encode(self, px, *a)
    )
    results = [frames_of(restored(load(tmp_path / "in.mp4"), frames=n)) for n in (1, 3, 512)]
    assert max(held[:7]) == 1 and max(held[7:10]) == 3
    for other in results[1:]:
        assert (other - results[0]).abs().mean() < 0.01


def test_a_trimmed_video_gives_its_part_alone(restored, tmp_path):
    write_clip(tmp_path / "in.mp4", greys(16))
    source = load(tmp_path / "in.mp4", start_time=0.5, duration=1.0)
    result = restored(source)
    want = frames_of(source).mean((1, 2, 3))
    assert len(want) == RATE
    assert (frames_of(result).mean((1, 2, 3)) - want).abs().max() < 0.02
    assert times_of(result)[0] == pytest.approx(0, abs=2e-3)
    audio = result.get_components().audio["waveform"]
    assert audio.shape[-1] / SOUND_RATE == pytest.approx(1.0, abs=0.13)  # whole packets


def test_images_with_sound_made_into_a_video_are_restored_too(restored, host):
    from comfy_api.latest import InputImpl, Types

    wave = torch.sin(torch.arange(SOUND_RATE) * 0.2)[None, None] * 0.5
    images = torch.from_numpy(greys(8)).float() / 255
    parts = Types.VideoComponents(
        images=images,
        audio={"waveform": wave, "sample_rate": SOUND_RATE},
        frame_rate=Fraction(RATE),
    )
    found = restored(InputImpl.VideoFromComponents(parts)).get_components()
    assert found.images.shape == images.shape and found.frame_rate == RATE
    assert (found.images.mean((1, 2, 3)) - images.mean((1, 2, 3))).abs().max() < 0.03
    got = found.audio["waveform"][0, 0, 2000:14000]
    level = got.square().mean().sqrt() / wave[0, 0, 2000:14000].square().mean().sqrt()
    assert level == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("factor", "words"), [(255, "divide by 255"), (float("nan"), "NaN")])
def test_images_that_are_none_are_refused_before_they_are_rounded(restored, factor, words):
    from comfy_api.latest import InputImpl, Types

    parts = Types.VideoComponents(
        images=torch.from_numpy(greys(2)).float() / 255 * factor, frame_rate=Fraction(RATE)
    )
    with pytest.raises(ValueError, match=f"a frame of the video must hold .*{words}"):
        restored(InputImpl.VideoFromComponents(parts), scale=2.0)


@pytest.mark.parametrize(
    ("container", "codec"), [("matroska", "flac"), ("mov", "pcm_s16le"), ("matroska", "pcm_s16le")]
)
def test_sound_in_any_codec_is_kept(restored, container, codec):
    buffer = io.BytesIO()
    write_clip(buffer, greys(8), codec=codec, container=container)
    audio = restored(load(buffer)).get_components().audio["waveform"][0]
    assert audio.shape[-1] / SOUND_RATE == pytest.approx(1.0, abs=0.15)
    assert 0.15 < audio[0, 3000:12000].square().mean().sqrt() < 0.3  # 0.3 / sqrt(2)


@pytest.mark.parametrize(("size", "scale"), [((17, 33), 1.0), ((64, 96), 0.25), ((6, 10), 8.0)])
def test_any_size_and_scale_give_exactly_the_enlarged_size(restored, tmp_path, size, scale):
    write_clip(tmp_path / "in.mkv", greys(2, size), codec=None)
    images = frames_of(restored(load(tmp_path / "in.mkv"), scale=scale))
    assert images.shape == (2, max(1, round(size[0] * scale)), max(1, round(size[1] * scale)), 3)


def test_a_turned_video_comes_back_upright(restored, tmp_path):
    picture = greys(2)
    picture[:, :, :24] = 230
    write_clip(tmp_path / "in.mp4", picture, codec=None)
    data = (tmp_path / "in.mp4").read_bytes()
    one, minus = b"\0\1\0\0", b"\xff\xff\0\0"
    plain, nought = b"".join((one, bytes(12), one, bytes(12))), bytes(4)
    head, found, tail = data.rpartition(plain)  # the matrix of the track, ISO 14496-12, 8.3.2
    assert found
    turned = b"".join((nought, one, bytes(4), minus, nought, bytes(12)))
    (tmp_path / "turned.mp4").write_bytes(head + turned + tail)
    source = load(tmp_path / "turned.mp4")
    assert frames_of(source).shape == (2, 48, 32, 3)
    images = frames_of(restored(source))
    assert images.shape == (2, 48, 32, 3)
    for rows in (slice(0, 20), slice(28, 48)):
        assert (images[0] - frames_of(source)[0])[rows].mean().abs() < 0.25


def test_cancel_keeps_the_finished_part(restored, sd2, tmp_path, monkeypatch, caplog):
    import comfy.model_management
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    write_clip(tmp_path / "in.mp4", greys(12))
    calls = []

    def watch(apply_model, arguments):
        calls.append(len(arguments["input"]))
        if sum(calls) > 8:
            comfy.model_management.interrupt_current_processing()
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    monkeypatch.setitem(sd2.model_options, "model_function_wrapper", watch)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        restored(load(tmp_path / "in.mp4"))
    comfy.model_management.interrupt_current_processing(False)
    (kept,) = Path(tmp_path / "output" / "video").glob("HYPIR_part_*.mp4")
    assert len(frames_of(load(kept))) == 8
    assert "its first 8 frames are in" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"scale": 0.0}, "scale must be a finite number above 0, got 0"),
        ({"scale": float("nan")}, "scale must be a finite number above 0, got nan"),
        ({"noise": -1.0}, "noise must be a finite number, at least 0, got -1"),
        ({"video": "past the end"}, "the video has no frames between its start and its end"),
    ],
    ids=str,
)
def test_wrong_input_gets_a_sentence(restored, tmp_path, wrong, sentence):
    write_clip(tmp_path / "in.mp4", greys(2))
    trim = {"start_time": 60.0, "duration": 1.0} if wrong.pop("video", None) else {}
    with pytest.raises(ValueError, match=sentence):
        restored(load(tmp_path / "in.mp4", **trim), **wrong)
