"""Settings for the tests of texts."""

import hypothesis

# Examples have no time limit of their own: other processes may have the cores.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")
