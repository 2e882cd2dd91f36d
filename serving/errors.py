"""The errors that serving raises on purpose. An error stands in the module that raises it.

ServingError: the one base; the message names what is wrong, and where
    BadSetting: the service refuses to start with a setting
    BadSubject: a declaration of a use case cannot be meant
    BadPolicy: thresholds cannot be meant
    BundleError: a bundle must not serve
        Inconclusive: a bundle could not be tried to the end, and may serve later
    ScorerError: a model cannot be scored here
    UnknownShape: a model has no tables of contributions, and LightGBM explains its rows
    RegistryDown: the registry cannot be asked just now
    RefusedRelease: the version that the alias names must not serve
    StoreError: the store did not do what it was asked for
        StoreBusy: another process holds the store's lock
        BadStore: the store cannot be used
    PlaneError: a request is not answered with a prediction
        NoModel: nothing can serve yet
        Conflict: the id was answered before, for another payload
        UnknownStream: the use case declares no such feed
        BadInput: a value is refused
    BodyTooLarge: a request's body is over the limit
"""

from __future__ import annotations


class ServingError(Exception):
    """A bundle, a setting, a request or the service's store is wrong; the message names what and where."""
