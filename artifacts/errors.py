"""Every error that a user can cause or mend.

PrunebenchError
├── ConfigError        an option, a file or a value is not what it must be
├── CompressionError   a model cannot be pruned as asked
│   └── UnsupportedModel
├── CheckpointError    a checkpoint or variant directory is damaged or incomplete
├── ServingError       a variant or the gateway cannot serve (carries the HTTP status and OpenAI's error type)
└── LoadTestError      a load test cannot be run or read

A message is one sentence that says what was wrong, what was allowed, and what to do. Verbs print it and exit with 2.
"""

from __future__ import annotations


class PrunebenchError(Exception):
    """Base of all errors above; `str(error)` is fit to be shown to a user."""


class ConfigError(PrunebenchError):
    """An option, a file or a value is not what it must be."""


class CompressionError(PrunebenchError):
    """A model cannot be pruned as asked."""


class UnsupportedModel(CompressionError):
    """The architecture is none that the compressor knows."""


class CheckpointError(PrunebenchError):
    """A checkpoint or a variant directory is damaged or incomplete."""


class LoadTestError(PrunebenchError):
    """A load test cannot be run or its record cannot be read."""


class ServingError(PrunebenchError):
    """A request or a variant cannot be served; rendered as OpenAI's error object.

    `status` is the HTTP status, `error_type` and `code` go into the envelope, `retry_after_s` into `Retry-After`.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 500,
        error_type: str = "server_error",
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
