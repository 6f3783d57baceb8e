"""Which language texts are in, by the small words that are in every sentence; and the stems of its words.

Comes in: texts, or words. Goes out: the name of a language whose stems Snowball knows, or NONE; stems.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter

from ezxmc_ray.index.words import STEM, tokens

AUTO, NONE = "auto", "none"
#: Share of a text's words that must be small words of one language. In sentences it is 20 to 45 %, in titles 10.
MIN_SHARE = 0.05

_SMALL_WORDS = {
    "arabic": "في من على إلى عن أن هذا هذه التي الذي مع كان بين أو كل لا ما هو هي",
    "catalan": "de la el els les i amb per una que és del dels al als no més com aquest aquesta són ha",
    "czech": "a je se na že do pro jsou který která nebo jako ale tak jeho byl by při pod od po které není",
    "danish": "og i at det en den til er af på der ikke med de et som for eller fra kan efter blev meget også",
    "dutch": "de het een van en in is dat op te voor met zijn er aan niet ook door wordt bij om naar deze worden",
    "english": "the of and to in is that for it as with by on are this be from or an which can was its at",
    "finnish": "ja on ei se että oli hän mutta ovat joka kuin myös sekä tai niin voi ole jotka tämä sen kun",
    "french": "le la les de des et est un une du en que pour dans sur avec par au qui il sont ce ou aux pas plus",
    "german": "der die das und ist von den mit für ein eine auf im zu sich nicht dem des werden auch als oder wird an",
    "greek": "και το η ο να του της για από με την στο που είναι τα των οι σε δεν στην μια ένα",
    "hungarian": "a az és hogy nem is egy van meg ez vagy mint csak de volt azt ki kell még már ezt amely",
    "indonesian": "dan yang di untuk dengan ini dari pada dalam adalah itu tidak ke oleh atau akan sebagai dapat",
    "italian": "il di che la e è per un una del in con della non si da le dei nel al alla gli sono come più anche",
    "norwegian": "og i det er en til på av som at ikke med de for et den har eller fra kan etter ble også mot",
    "polish": "i w na z się do nie jest że to o jak dla po przez oraz od są lub który która przy być tym",
    "portuguese": "o de a que e do da em um para com não uma os no se na por mais as dos como ao das ou são é pelo",
    "romanian": "și de la în cu pe o un este care din pentru nu sau mai au fi prin ale al lui sunt ca această",
    "russian": "и в на не что с по как это к из для от или за он она так но при его был быть также является",
    "spanish": "el de la que y en los un una las por con para es del se no lo al su como más o sus este entre son",
    "swedish": "och i att det en som är på av för med till den ett inte har från om eller kan vid också efter var",
    "turkish": "ve bir bu için ile olarak de da olan çok daha gibi ne kadar en veya olduğu her ise sonra",
}  # fmt: skip
_LANGUAGES_OF: dict[str, list[str]] = {}
for _language, _words in _SMALL_WORDS.items():
    for _word in set(_words.split()):
        _LANGUAGES_OF.setdefault(_word, []).append(_language)


def detect_language(texts: Iterable[str]) -> str:
    """The language that most of ``texts`` are in: the one with most of its small words, which are more than one word in
    twenty; NONE where there is none.

    A word that several languages have counts as a part for each. Texts in two languages are those of the one with more.
    """
    counts: dict[str, float] = dict.fromkeys(_SMALL_WORDS, 0)
    words = 0
    for text in texts:
        found = tokens(text)
        words += len(found)
        for word in found:
            languages = _LANGUAGES_OF.get(word, ())
            for language in languages:
                counts[language] += 1 / len(languages)
    most = max(counts, key=lambda language: counts[language])
    return most if counts[most] > MIN_SHARE * words else NONE


def stemmer(language: str) -> Callable[[str], str]:
    """From a word in lower case to its stem, by Snowball; of NONE its first STEM letters."""
    if language == NONE:
        return itemgetter(slice(STEM))
    from Stemmer import Stemmer

    return Stemmer(language, 0).stemWord
