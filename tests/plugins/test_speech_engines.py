"""What every engine keeps, run over the whole registry, with a real model and real recordings.

The remote engine talks to a small server of the tests, which answers as the public API describes
and recognizes with the same model: a stand-in, since no such service can be had here.
"""

from __future__ import annotations

import io
import json
import tempfile
import threading
import wave
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import jiwer
import numpy as np
import pytest
from python_multipart import parse_form
from typing_extensions import override

from earmark import audio
from earmark.sandbox import Limits
from earmark.speech import (
    ENGINES,
    RATE_HZ,
    Options,
    SpeechFailedError,
    SpeechMissingError,
    Transcriber,
    open_engine,
)
from earmark.speech.sound import Sound
from speaking import ROOT, installed_models, tone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from earmark.speech import Samples
