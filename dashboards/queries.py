"""The queries of panels: rates, shares and quantiles within the chosen variables."""

from collections.abc import Iterable

from dashboards.names import label_of, names_of
from dashboards.panels import RATE, SCOPE, Query
from dashboards.promql import series, total
from otel_intercept.semconv import Instrument


def rate(
    instrument: Instrument, by: Iterable[str], *matchers: str, window: str = RATE
) -> str:
    """Return what a counter, or the count of a histogram, gains per second."""
    return _per_label("rate", instrument, by, matchers, window)


def increase(
    instrument: Instrument, by: Iterable[str], *matchers: str, window: str = RATE
) -> str:
    """Return what a counter, or the count of a histogram, has gained in a window."""
    return _per_label("increase", instrument, by, matchers, window)


def quantile(
    share: float,
    instrument: Instrument,
    by: Iterable[str],
    *matchers: str,
    window: str = RATE,
) -> str:
    """Return a quantile of a histogram."""
    names = names_of(instrument)
    selector = series(names.bucket, *SCOPE, *matchers)
    keep = ("le", *(label_of(key) for key in by))
    return (
        f"histogram_quantile({share:g}, {total(keep, f'rate({selector}[{window}])')})"
    )


def quantiles(
    instrument: Instrument,
    *matchers: str,
    shares: tuple[float, ...] = (0.5, 0.95, 0.99),
) -> tuple[Query, ...]:
    """Return one query for each of some quantiles over everything chosen."""
    return tuple(
        Query(quantile(share, instrument, (), *matchers), f"p{share * 100:g}")
        for share in shares
    )


def gauge(instrument: Instrument, by: Iterable[str]) -> str:
    """Return the sum of a gauge."""
    selector = series(names_of(instrument).sample, *SCOPE)
    return total([label_of(key) for key in by], selector)


def legend(*keys: str) -> str:
    """Return a legend of the values of label keys."""
    return " · ".join(f"{{{{{label_of(key)}}}}}" for key in keys)


def _per_label(
    function: str,
    instrument: Instrument,
    by: Iterable[str],
    matchers: Iterable[str],
    window: str,
) -> str:
    names = names_of(instrument)
    name = names.count if names.kind == "histogram" else names.sample
    selector = series(name, *SCOPE, *matchers)
    return total([label_of(key) for key in by], f"{function}({selector}[{window}])")
