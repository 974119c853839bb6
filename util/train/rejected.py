"""Training images that cannot be read: listed, and no more of them than is allowed."""

import logging
from collections.abc import Sequence

from util.data.dataset import BadImage
from util.data.image_list import ImageList
from util.errors import DataError, listed
from util.files import as_field
from util.log import NAME
from util.train.run_folder import RunFolder

FILE = "bad_images.tsv"
MAX_LISTED = 20


class RejectedImages:
    """The unreadable images of a run, in `bad_images.tsv`: a line `path TAB reason` each, every path once.

    All processes of the run add to the one file, and count what is in it.
    """

    def __init__(self, folder: RunFolder, *, num_images: int, part: float) -> None:
        self.folder = folder
        self.num_images = num_images
        self.part = part
        self._known: set[str] = set()

    def check_known(self, bad: int) -> None:
        """Raises a DataError if an index marks so many images as unreadable that training would have to end."""
        if bad > self._allowed():
            raise DataError(
                f"{bad} of {self.num_images} training images are unreadable by the index; --bad_images {self.part:g} "
                f"allows {self._allowed()}: repair them (python -m util.data.check lists them), or raise --bad_images"
            )

    def add(self, images: Sequence[BadImage]) -> None:
        """Lists images that were not known; one more than is allowed is a DataError that names them."""
        new = {image.path: image for image in images if image.path not in self._known}
        if not new:
            return
        listed = self._listed()
        unlisted = [image for path, image in new.items() if as_field(path) not in listed]
        for image in unlisted:
            self.folder.append_line(FILE, f"{as_field(image.path)}\t{as_field(image.reason)}")
        self._known |= new.keys()
        listed = self._listed()
        if len(listed) > self._allowed():
            some = list(listed.items())[:MAX_LISTED]
            more = f" and {len(listed) - len(some)} more" if len(listed) > len(some) else ""
            raise DataError(
                f"{len(listed)} unreadable training images, --bad_images {self.part:g} of {self.num_images} allows "
                f"{self._allowed()}: {'; '.join(f'{path}: {reason}' for path, reason in some)}{more}. Repair or remove "
                f"them (and then {self.folder.path / FILE}), or raise --bad_images"
            )
        for image in unlisted:
            logging.getLogger(f"{NAME}.data").warning(
                f"unreadable: {image.path}: {image.reason}; another image stands in for it"
            )

    def _allowed(self) -> int:
        return int(self.part * self.num_images + 1e-9)

    def _listed(self) -> dict[str, str]:
        """Returns the reasons in the file by path, both as they are written there."""
        path = self.folder.path / FILE
        if not path.exists():
            return {}
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        return {name: reason for name, tab, reason in (line.partition("\t") for line in lines) if tab}


def refuse_known_bad(images: ImageList) -> None:
    """Raises a DataError that names the evaluation images which their index marks as unreadable.

    An evaluation replaces none, so the run would end with the first one, after an epoch was trained.
    """
    if images.bad_at is not None and len(images.bad_at) > 0:
        names = listed((images.path(int(place)) for place in images.bad_at), MAX_LISTED)
        raise DataError(
            f"{images.bad:,} of {len(images):,} evaluation images are unreadable by the index: {names}; repair or "
            "remove them, and check the data again (python -m util.data.check)"
        )
