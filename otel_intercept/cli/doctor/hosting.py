"""Host what is examined: the user's app in a process of its own, or a server."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Final, NamedTuple, Protocol

import aiohttp
from yarl import URL

from otel_intercept.cli.doctor.app_process import AppProcess, running
from otel_intercept.cli.doctor.evidence import Wiring
from otel_intercept.cli.doctor.options import ID, DoctorOptions, Opening
from otel_intercept.cli.doctor.wiring import DEFAULT_ROUTE
from otel_intercept.cli.output import complain, refuse

_CONNECT_S: Final = 5.0
_OWN_VARIABLES: Final = ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES")
_KEYS: Final = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
_NO_PROXY: Final = "127.0.0.1,localhost"


class Rollouts(Protocol):
    """Who opens rollouts."""

    async def open(self, rollout_id: str) -> bool | None:
        """Open one; whether the app's own registry has it then, None if unknown."""
        ...

    async def close(self, rollout_id: str) -> None:
        """Close one."""
        ...


class Host(NamedTuple):
    """What is examined.

    Args:
        base_url: Where it listens.
        route: The route to probe.
        headers: What its agents have to send.
        rollouts: Who opens rollouts.
        wiring: What can be seen of it without a request, or None.
    """

    base_url: str
    route: str
    headers: Mapping[str, str]
    rollouts: Rollouts
    wiring: Wiring | None


@contextlib.asynccontextmanager
async def hosting(
    options: DoctorOptions,
    environ: Mapping[str, str],
    *,
    upstream_url: str,
    endpoint: str,
    key: str,
) -> AsyncIterator[Host]:
    """Start the user's app, or look for the server, for the length of a block.

    Args:
        options: What the command line says.
        environ: The environment.
        upstream_url: The scripted upstream, without ``/v1``.
        endpoint: Doctor's OTLP receiver; empty if a file is read instead.
        key: What the app gets in place of its real API keys.

    Raises:
        Unusable: The user's code cannot be served.
        Refused: The server cannot be reached.
    """
    upstreams = _upstream_variables(options, upstream_url)
    if options.is_server:
        headers = options.agent_headers(environ)
        await _look_for(options, upstreams, endpoint)
        async with _rollouts_of_server(options, headers) as rollouts:
            route = options.route or DEFAULT_ROUTE
            yield Host(options.target.rstrip("/"), route, headers, rollouts, None)
        return
    variables = _app_variables(environ, upstreams, endpoint, key)
    headers = options.agent_headers(variables)
    job = {
        "target": options.target,
        "route": options.route,
        "rollout_id": options.rollout_id,
        "upstream": upstream_url,
    }
    async with running(job, variables) as app:
        if app.secret is not None:
            headers.setdefault("Authorization", f"Bearer {app.secret}")
        async with _rollouts_of_app(options, app, headers) as rollouts:
            yield Host(app.base_url, app.wiring.route, headers, rollouts, app.wiring)


def _upstream_variables(options: DoctorOptions, url: str) -> dict[str, str]:
    named = dict.fromkeys(options.upstream_env, f"{url}/v1")
    return {
        "OPENAI_BASE_URL": f"{url}/v1",
        # Its SDK puts /v1 there itself.
        "ANTHROPIC_BASE_URL": url,
        **named,
    }


def _app_variables(
    environ: Mapping[str, str], upstreams: Mapping[str, str], endpoint: str, key: str
) -> dict[str, str]:
    """Return the app's environment: its own, without keys and telemetry of its own."""
    variables = {
        name: value
        for name, value in environ.items()
        if not name.startswith("OTEL_") or name in _OWN_VARIABLES
    }
    proxies = dict.fromkeys(("NO_PROXY", "no_proxy"), _NO_PROXY)
    telemetry = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
    }
    keys = dict.fromkeys(_KEYS, key)
    return variables | proxies | telemetry | keys | dict(upstreams)


async def _look_for(
    options: DoctorOptions, upstreams: Mapping[str, str], endpoint: str
) -> None:
    told = dict(upstreams)
    if endpoint:
        told["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
    for name, value in told.items():
        complain(f"the server must have been started with {name}={value}")
    url = URL(options.target)
    try:
        async with aiohttp.ClientSession() as session:
            timeout = aiohttp.ClientTimeout(total=_CONNECT_S)
            async with session.get(url.origin(), timeout=timeout):
                pass
    except (aiohttp.ClientError, OSError):
        refuse("nobody answers at the target: start the server first")


@contextlib.asynccontextmanager
async def _rollouts_of_server(
    options: DoctorOptions, headers: Mapping[str, str]
) -> AsyncIterator[Rollouts]:
    async with aiohttp.ClientSession() as session:
        yield _ByUrl(session, options, options.target.rstrip("/"), headers, None)


@contextlib.asynccontextmanager
async def _rollouts_of_app(
    options: DoctorOptions, app: AppProcess, headers: Mapping[str, str]
) -> AsyncIterator[Rollouts]:
    if options.open_url is None:
        yield app
        return
    async with aiohttp.ClientSession() as session:
        yield _ByUrl(session, options, app.base_url, headers, app)


class _ByUrl:
    """Opens rollouts as the app wants it, by a request; or leaves it to the app."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        options: DoctorOptions,
        base_url: str,
        headers: Mapping[str, str],
        app: AppProcess | None,
    ) -> None:
        self._session = session
        self._options = options
        self._base_url = base_url
        self._headers = headers
        self._app = app

    async def open(self, rollout_id: str) -> bool | None:
        """Open one; whether the app's own registry has it then, None if unknown."""
        if self._options.open_url is None:
            return None
        status = await self._request(self._options.open_url, rollout_id)
        if status is None or status >= 400:
            refuse(f"--open-url was answered with {status or 'nothing'}")
        return None if self._app is None else await self._app.look(rollout_id)

    async def close(self, rollout_id: str) -> None:
        """Close one. What the app answers does not matter."""
        if self._options.close_url is not None:
            await self._request(self._options.close_url, rollout_id)

    async def _request(self, opening: Opening, rollout_id: str) -> int | None:
        url = f"{self._base_url}{opening.path.replace(ID, rollout_id)}"
        headers = {
            name: value.replace(ID, rollout_id) for name, value in self._headers.items()
        }
        timeout = aiohttp.ClientTimeout(total=_CONNECT_S)
        try:
            async with self._session.request(
                opening.method, url, headers=headers, timeout=timeout
            ) as response:
                return response.status
        except (aiohttp.ClientError, OSError):
            return None
