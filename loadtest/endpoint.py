"""What is at the other end? Asked before and after a load test: the models it serves, the metrics it keeps."""

from __future__ import annotations

import json
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from artifacts.errors import LoadTestError
from artifacts.loopback import is_loopback

_TIMEOUT_S = 10.0


class Endpoint:
    """An OpenAI-compatible server. Raises LoadTestError for what is no `http://host[:port][/prefix]`."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self.url = _base_url(url)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._opener = build_opener(ProxyHandler({}))  # a proxy on the way would be what is measured

    def models(self) -> dict[str, dict[str, Any]]:
        """The entries of `/v1/models` by id. Raises LoadTestError if there is no such server or it lists nothing."""
        body = self._get("/v1/models")
        try:
            entries = {str(entry["id"]): dict(entry) for entry in json.loads(body)["data"]}
        except (ValueError, KeyError, TypeError) as error:
            raise LoadTestError(
                f"{self.url}/v1/models answered something else than a list of models. "
                "Give the URL of an OpenAI-compatible server."
            ) from error
        if not entries:
            raise LoadTestError(f"{self.url} serves no model. Wait until one is ready, or start one.")
        return entries

    def metrics(self) -> str | None:
        """The text of `/metrics`, or None from a server that has none."""
        try:
            return self._get("/metrics")
        except LoadTestError:
            return None

    def _get(self, path: str) -> str:
        request = Request(self.url + path, headers=self._headers)
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as response:
                return str(response.read().decode(errors="replace"))
        except HTTPError as error:
            error.close()  # it holds the connection
            remedy = "Give a valid API key." if error.code in (401, 403) else "Give the URL of a working server."
            raise LoadTestError(f"{self.url}{path} answered {error.code} {error.reason}. {remedy}") from error
        except (URLError, OSError, HTTPException, UnicodeError) as error:
            # HTTPException: what answers is not HTTP. UnicodeError: what no resolver takes for a host's name.
            reason = getattr(error, "reason", None) or error
            raise LoadTestError(
                f"{self.url} cannot be reached ({reason}). Start the server or correct the URL."
            ) from error


def _base_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise LoadTestError(f"{url!r} is no usable address. Give one of the form http://host:port, without TLS.")
    return url.split("?")[0].rstrip("/").removesuffix("/v1")


def is_local(url: str) -> bool:
    """Whether it names this machine: a loopback address or `localhost`."""
    return is_loopback(urlsplit(url).hostname or "")


def served_here(url: str, served: dict[str, dict[str, Any]], models: tuple[str, ...]) -> bool:
    """Whether all `models` run on this machine, as far as can be known: a gateway here may pass requests on.

    `served` is what `/v1/models` lists; an alias counts as the variants it stands for.
    """
    about = [served.get(model, {}).get("prunebench", {}) for model in models]
    targets = tuple(str(target["variant"]) for entry in about for target in entry.get("targets", ()))
    passed_on = [str(replica) for entry in about for replica in entry.get("urls", ())]
    here = all(map(is_local, (url, *passed_on)))
    return here and (not targets or served_here(url, served, targets))


def require_models(served: dict[str, dict[str, Any]], wanted: tuple[str, ...], total_tokens: int | None) -> int | None:
    """The shortest context of the wanted models, None where the server tells none.

    `total_tokens` is the most that prompt and output may come to together, None if there is no most: then they are cut.
    Raises LoadTestError for a model that is not served, or whose context is shorter than `total_tokens`.
    """
    contexts = []
    for model in wanted:
        if model not in served:
            raise LoadTestError(f"Model {model!r} is not served. Choose from: {', '.join(sorted(served))}.")
        limit = served[model].get("max_model_len")
        if not isinstance(limit, int):
            continue
        contexts.append(limit)
        if total_tokens is not None and total_tokens > limit:
            raise LoadTestError(
                f"Prompt and output make {total_tokens} tokens, model {model!r} takes {limit}. Ask for fewer tokens."
            )
    return min(contexts, default=None)
