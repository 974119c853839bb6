"""Whether a request's images have room, asked as soon as its head is there, before anybody reads its body.

Under overload most requests are refused, and whatever a refusal costs is missing for those that are answered.
"""

import re
from collections.abc import Sequence

from util.serving.api_key import ApiKey
from util.serving.classifier import Classifier
from util.serving.observed import Journal

_TAKES_IMAGES = re.compile(rb"/v1/classify|/v2/models/[^/?]+(/versions/[^/?]+)?/infer")


class Admission:
    """Refuses requests with images for which there is no engine, no room or no time, and notes that as an answer.

    A request without the key is not refused here: it learns nothing of the queue.
    """

    def __init__(self, classifier: Classifier, journal: Journal, key: ApiKey) -> None:
        self._classifier = classifier
        self._journal = journal
        self._key = key

    @property
    def has_key(self) -> bool:
        """Returns whether clients must send a key."""
        return not self._key.is_given(())

    def note(self, method: bytes, url: bytes, number: str, status: int) -> None:
        """Notes an answer that the protocol gives by itself, of a request that may not have come as far as its URL."""
        path = url.partition(b"?")[0].decode("ascii", "replace")
        self._journal.note(method.decode("ascii", "replace"), path, number, status, 0.0)

    def admit(self, method: bytes, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> int | None:
        """Returns the number of the place that is kept for a request with images, None for another; or a RefusedError.

        Whoever was given a place has to `leave` it.
        """
        path = url.partition(b"?")[0]
        if method != b"POST" or _TAKES_IMAGES.fullmatch(path) is None or not self._key.is_given(headers):
            return None
        return self._classifier.batcher.expect()

    def leave(self, place: int | None) -> None:
        """Gives a place back, if it was not taken."""
        self._classifier.batcher.leave(place)
