"""Probe pictures: the same to the bit everywhere, and to a network what photographs are."""

import hashlib

import numpy as np
import pytest

from greffon.errors import InputError
from greffon.weights.probes import PROBES_VERSION, probe_pictures

# Of version 1; other pictures need another version, and stored outputs made anew.
HASHES = {
    (8, 96): "2cb0d2d94285d82db67e6f00b6b6de4cc320d8fea0564f99e8561747c0007e5c",
    (4, 64): "d4268067f714d3c0ff9eee8bad575e82fc0a9fdf0b5fe4d9aee23d341201ad3b",
    (2, 33): "94344ebd12f01a4303eb118a3f0a0b93dd088b2473a78d398781b3fc94bd9ee2",
}


def test_pictures_are_those_of_their_version():
    assert PROBES_VERSION == 1
    for (count, side), expected in HASHES.items():
        assert hashlib.sha256(probe_pictures(count, side=side).tobytes()).hexdigest() == expected


def test_more_pictures_begin_with_the_same_ones():
    assert np.array_equal(probe_pictures(5, side=32)[:3], probe_pictures(3, side=32))


def test_pictures_differ_from_one_another():
    pictures = probe_pictures(8, side=64).astype(float)
    for number in range(8):
        others = np.delete(pictures, number, axis=0)
        assert np.abs(others - pictures[number]).mean(axis=(1, 2, 3)).min() > 20


def test_every_size_shows_the_same_scenes():
    small = probe_pictures(4, side=48).astype(float)
    large = probe_pictures(4, side=192).astype(float).reshape(4, 48, 4, 48, 4, 3).mean(axis=(2, 4))
    correlations = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(small, large, strict=True)]
    assert min(correlations) > 0.95


def test_statistics_are_those_of_photographs():
    pictures = probe_pictures(16, side=128).astype(float)
    assert np.abs(pictures.mean(axis=(0, 1, 2)) - (124, 117, 104)).max() < 20  # ImageNet's mean
    assert 45 < pictures.std() < 80
    # Photographs: power falls about as 1/f^2, so about the same in every octave.
    grey = pictures.mean(axis=-1)
    power = (np.abs(np.fft.fft2(grey - grey.mean(axis=(1, 2), keepdims=True))) ** 2).mean(axis=0)
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)[None, :]) * 128
    bands = [power[(frequency >= low) & (frequency < 2 * low)].mean() for low in (2, 4, 8, 16, 32)]
    slope = np.polyfit(np.log([2, 4, 8, 16, 32]), np.log(bands), 1)[0]
    assert -3 < slope < -1.5
    neighbours = np.corrcoef(grey[:, :, 1:].ravel(), grey[:, :, :-1].ravel())[0, 1]
    assert neighbours > 0.85


def test_a_picture_cannot_be_changed_for_the_next_caller():
    pictures = probe_pictures(1, side=16)
    before = pictures.copy()
    pictures[:] = 0
    assert np.array_equal(probe_pictures(1, side=16), before)


@pytest.mark.parametrize("bad", [{"count": 0}, {"count": 2.5}, {"side": 7}, {"side": 4096}, {"side": "96"}])
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(InputError, match="probe pictures must be"):
        probe_pictures(**bad)
