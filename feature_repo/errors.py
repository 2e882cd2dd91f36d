"""The one base of every error that the feature repository raises."""


class FeatureError(Exception):
    """A declaration, an event, the lake or the feature store is wrong; the message names what and where."""
