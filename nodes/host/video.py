"""The host's VIDEO, read and written frame by frame: memory does not grow with its length."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.audio.resampler import AudioResampler
from comfy_api.latest import Input
from torch import Tensor

COPIED_AUDIO = {"aac", "mp3", "ac3", "eac3", "alac"}
"""Codecs that an MP4 file holds as they are; others are encoded as AAC."""
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
"""Channels that are kept as they are; others are mixed to stereo."""
CRF = "14"
"""Quality of x264: no visible loss, because the host's Save Video copies the stream."""
BT709 = 1
"""Matrix, primaries and transfer of BT.709, and limited range, in the numbers of ISO 23091-2."""
LIMITED_RANGE = 1


@dataclass(frozen=True)
class Frame:
    """A frame and the time at which it is shown."""

    image: Tensor
    """(H, W, 3) float32 in [0, 1]."""
    time: Fraction
    """In seconds from the start of the clip."""


class Clip:
    """A VIDEO of the host as a stream of frames and of packets of its sound."""

    def __init__(self, video):
        self._video = video
        self.start, self._length = _window(video)
        # A video made of images is in memory already; a file is never read as a whole.
        self._parts = None if _streams(video) else video.get_components()
        if self._parts is None:
            with self._open() as file:
                stream = _picture(file)
                self.rate = Fraction(stream.average_rate or 1)
                self.time_base = stream.time_base
                self.expected = _count(file, stream, self.start, self._length)
        else:
            self.rate = Fraction(self._parts.frame_rate)
            self.time_base = 1 / self.rate
            self.expected = len(self._parts.images)

    def frames(self) -> Iterator[Frame]:
        """All frames of the clip in order."""
        if self._parts is not None:
            for i, image in enumerate(self._parts.images):
                yield Frame(image[..., :3].float(), i / self.rate)
            return
        with self._open() as file:
            stream = _picture(file)
            stream.thread_type = "AUTO"
            origin = (stream.start_time or 0) * stream.time_base
            if self.start:
                file.seek(int((self.start + origin) / stream.time_base), stream=stream)
            for i, frame in enumerate(file.decode(stream)):
                shown = i / self.rate if frame.pts is None else frame.pts * frame.time_base - origin
                time = shown - self.start
                if time < 0:
                    continue
                if self._length and time >= self._length:
                    return
                yield Frame(_pixels(frame), time)

    def sound(self, writer: av.container.OutputContainer) -> Sound | None:
        """The sound of the clip, to be written into this file; None if it has none."""
        if self._parts is not None:
            audio = self._parts.audio
            return None if audio is None else Samples(audio, writer)
        file = self._open()
        stream = next((s for s in file.streams.audio if s.codec_context is not None), None)
        if stream is None:
            file.close()
            return None
        kind = Packets if stream.codec_context.name in COPIED_AUDIO else Encoded
        return kind(file, stream, self.start, self._length, writer)

    def _open(self) -> av.container.InputContainer:
        source = self._video.get_stream_source()
        if isinstance(source, io.BytesIO):
            source = io.BytesIO(source.getbuffer())  # each reader has a place of its own
        return av.open(source)


class Sound:
    """Sound that is written up to a time, so that a file that ends early ends with its frames."""

    def write_until(self, time: Fraction) -> None:
        """Write what sounds before `time`, in seconds from the start of the clip."""
        raise NotImplementedError

    def close(self) -> None:
        """Write what an encoder still holds."""


class Packets(Sound):
    """Packets of the source, not decoded."""

    def __init__(self, file, stream, start: Fraction, length: Fraction, writer):
        self._file, self._writer, self._start, self._length = file, writer, start, length
        self._target = writer.add_stream_from_template(stream)
        self._origin = _origin(file)
        if start:
            file.seek(int((start + self._origin) * av.time_base))
        self._left = file.demux(stream)
        self._next = None

    def write_until(self, time: Fraction) -> None:
        until = min(time, self._length) if self._length else time
        while (packet := self._next or next(self._left, None)) is not None:
            self._next = None
            if packet.pts is None:
                continue
            at = packet.pts * packet.time_base - self._origin - self._start
            if self._start and at < 0:  # at the start, an encoder's lead-in belongs to it
                continue
            if at >= until:
                self._next = packet
                return
            shift = int((self._origin + self._start) / packet.time_base)
            packet.pts -= shift
            packet.dts = packet.pts
            packet.stream = self._target
            self._writer.mux(packet)

    def close(self) -> None:
        self._file.close()


class Encoded(Sound):
    """Sound in a codec that an MP4 file cannot hold, encoded as AAC."""

    def __init__(self, file, stream, start: Fraction, length: Fraction, writer):
        self._file, self._writer, self._start, self._length = file, writer, start, length
        self._origin = _origin(file)
        if start:
            file.seek(int((start + self._origin) * av.time_base))
        self._frames = file.decode(stream)
        context = stream.codec_context
        self._encoder = _Encoder(writer, context.sample_rate or 48000, context.channels)
        self._next = None

    def write_until(self, time: Fraction) -> None:
        until = min(time, self._length) if self._length else time
        while (frame := self._next or next(self._frames, None)) is not None:
            self._next = None
            at = frame.pts * frame.time_base - self._origin - self._start
            if self._start and at < 0:  # at the start, an encoder's lead-in belongs to it
                continue
            if at >= until:
                self._next = frame
                return
            self._encoder.write(frame)

    def close(self) -> None:
        self._encoder.close()
        self._file.close()


class Samples(Sound):
    """The host's AUDIO, encoded as AAC."""

    PART = 1024

    def __init__(self, audio: dict, writer):
        self._samples = audio["waveform"][0].float().cpu().numpy()  # (channels, samples)
        self._rate = int(audio["sample_rate"])
        self._encoder = _Encoder(writer, self._rate, len(self._samples))
        self._done = 0

    def write_until(self, time: Fraction) -> None:
        until = min(self._samples.shape[1], int(time * self._rate))
        count = len(self._samples)
        layout = LAYOUTS.get(count, "stereo")
        kept = count if count in LAYOUTS else 2
        while self._done < until:
            part = self._samples[:kept, self._done : min(self._done + self.PART, until)]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), "fltp", layout)
            frame.sample_rate = self._rate
            frame.pts, frame.time_base = self._done, Fraction(1, self._rate)
            self._encoder.write(frame)
            self._done += part.shape[1]

    def close(self) -> None:
        self._encoder.close()


class _Encoder:
    """Frames of any format to AAC."""

    def __init__(self, writer, rate: int, channels: int):
        layout = LAYOUTS.get(channels, "stereo")
        self._writer = writer
        self._stream = writer.add_stream("aac", rate=rate, layout=layout)
        self._resampler = AudioResampler("fltp", layout, rate)
        self._rate, self._done = rate, 0

    def write(self, frame) -> None:
        for part in self._resampler.resample(frame):
            part.pts, part.time_base = self._done, Fraction(1, self._rate)
            self._done += part.samples
            self._writer.mux(self._stream.encode(part))

    def close(self) -> None:
        self._writer.mux(self._stream.encode(None))


class Writer:
    """An MP4 file that grows frame by frame, with the sound of a clip."""

    def __init__(self, path: Path, clip: Clip, height: int, width: int):
        self.frames = 0
        self._file = av.open(str(path), "w", options={"movflags": "faststart"})
        self._rate, self._end = clip.rate, Fraction(0)
        self._stream = self._file.add_stream("libx264", rate=clip.rate, options={"crf": CRF})
        self._stream.width, self._stream.height = width, height
        # half as many colours as pixels need even sides
        even = width % 2 == 0 and height % 2 == 0
        self._stream.pix_fmt = "yuv420p" if even else "yuv444p"
        self._stream.time_base = self._stream.codec_context.time_base = clip.time_base
        context = self._stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        self._sound = clip.sound(self._file)

    def write(self, image: Tensor, time: Fraction) -> None:
        """Append a frame, (H, W, 3) in [0, 1]."""
        levels = image.clamp(0, 1).mul(255).round().byte().cpu().numpy()
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(levels), format="rgb24")
        frame = frame.reformat(format=self._stream.pix_fmt, dst_colorspace=BT709)
        frame.pts, frame.time_base = (
            round(time / self._stream.codec_context.time_base),
            self._stream.codec_context.time_base,
        )
        self._file.mux(self._stream.encode(frame))
        self.frames += 1
        self._end = time + 1 / self._rate
        if self._sound is not None:
            self._sound.write_until(self._end)

    def close(self) -> None:
        """Finish the file; it holds all frames that were written, and their sound."""
        if self.frames:
            self._file.mux(self._stream.encode(None))
        if self._sound is not None:
            self._sound.close()
        self._file.close()


def _streams(video) -> bool:
    """Whether a VIDEO gives the file it comes from, instead of encoding what it holds."""
    return type(video).get_stream_source is not Input.Video.get_stream_source


def _window(video) -> tuple[Fraction, Fraction]:
    """Start and length in seconds of what the host's Trim Video left; length 0 = to the end."""
    if hasattr(video, "get_active_trim_window"):
        start, length = video.get_active_trim_window()
    else:  # hosts before 0.27
        start = getattr(video, "_VideoFromFile__start_time", 0)
        length = getattr(video, "_VideoFromFile__duration", 0)
    return Fraction(start).limit_denominator(10**6), Fraction(length).limit_denominator(10**6)


def _picture(file):
    if not file.streams.video:
        raise ValueError("the video holds no picture stream; connect Load Video with a video file")
    return file.streams.video[0]


def _origin(file) -> Fraction:
    """The time of the first frame in the file's own clock."""
    stream = _picture(file)
    return (stream.start_time or 0) * stream.time_base


def _count(file, stream, start: Fraction, length: Fraction) -> int:
    """Frames that are expected, for the progress bar; 0 if the file does not say."""
    if stream.duration:
        whole = stream.duration * stream.time_base
    elif file.duration:
        whole = Fraction(file.duration, av.time_base)
    else:
        return 0
    kept = whole - start
    return max(
        1, round((min(kept, length) if length else kept) * Fraction(stream.average_rate or 1))
    )


def _pixels(frame: av.VideoFrame) -> Tensor:
    """(H, W, 3) float32 in [0, 1], upright."""
    deep = max(part.bits for part in frame.format.components) > 8
    pixels = frame.to_ndarray(format="rgb48le" if deep else "rgb24")
    turned = np.rot90(pixels, round(getattr(frame, "rotation", 0) / 90))
    return torch.from_numpy(turned.astype(np.float32) / (65535 if deep else 255))
