"""Whether a request's images have room, asked as soon as its head is there, before anybody reads its body.

Under overload most requests are refused, and whatever a refusal costs is missing for those that are answered.
"""

import re
from collections.abc import Sequence

from util.serving.api_key import ApiKey
from util.serving.batcher import RefusedError
from util.serving.classifier import Classifier
from util.serving.observed import Journal, number_of

_TAKES_IMAGES = re.compile(rb"/v1/classify|/v2/models/[^/?]+(/versions/[^/?]+)?/infer")


class Admission:
    """Refuses requests with images for which there is no engine, no room or no time, and notes that as an answer.

    A request without the key is not refused here: it learns nothing of the queue.
    """

    def __init__(self, classifier: Classifier, journal: Journal, key: ApiKey) -> None:
        self._classifier = classifier
        self._journal = journal
        self._key = key

    def note(self, method: bytes, url: bytes, number: str, status: int) -> None:
        """Notes an answer that the protocol gives by itself, of a request that may not have come as far as its URL."""
        path = url.partition(b"?")[0].decode("ascii", "replace")
        self._journal.note(method.decode("ascii", "replace"), path, number, status, 0.0)

    def refusal(
        self, method: bytes, url: bytes, headers: Sequence[tuple[bytes, bytes]]
    ) -> tuple[RefusedError, str] | None:
        """Returns why a request is refused, and its number; None: it is for the application."""
        path = url.partition(b"?")[0]
        if method != b"POST" or _TAKES_IMAGES.fullmatch(path) is None or not self._key.is_given(headers):
            return None
        try:
            self._classifier.batcher.expect()
        except RefusedError as error:
            number = number_of(headers)
            self.note(method, url, number, 503)
            return error, number
        return None
