"""The language of texts, told by their small words."""

from __future__ import annotations

import pytest
from Stemmer import algorithms

from ezxmc_ray.config.lexical import LANGUAGES
from ezxmc_ray.index.language import NONE, detect_language, stemmer

TEXTS = {
    "english": "This library is a collection of records that was built for the study of rivers and lakes.",
    "german": "Diese Bibliothek enthält Berichte über Flüsse und Seen, die nicht für die Forschung gedacht sind.",
    "french": "Cette bibliothèque contient des rapports sur les lacs qui ne sont pas dans le catalogue.",
    "spanish": "Esta biblioteca contiene los informes de la investigación que se hizo en los ríos del sur.",
    "italian": "Questa biblioteca contiene le relazioni sui fiumi e i laghi che non sono nel catalogo della regione.",
    "portuguese": "Esta biblioteca contém os relatórios sobre os rios e as lagoas que não são do catálogo da região.",
    "dutch": "Deze bibliotheek bevat een verslag van het onderzoek naar de meren dat niet in de lijst staat.",
    "swedish": "Detta bibliotek innehåller rapporter om floder och sjöar som inte är med i den stora katalogen.",
    "danish": "Dette bibliotek har rapporter om floder og søer, som ikke er med i kataloget, og bliver brugt af mange.",
    "finnish": "Tämä kirjasto on kokoelma raportteja, jotka ovat vanhoja, mutta se ei ole täydellinen.",
    "polish": "Ta biblioteka zawiera raporty o rzekach i jeziorach, które nie są w katalogu, oraz mapy dla badaczy.",
    "czech": "Tato knihovna obsahuje zprávy o řekách a jezerech, které nejsou v katalogu, ale jsou pro výzkum.",
    "hungarian": "Ez a könyvtár olyan jelentéseket tartalmaz a tavakról, amely nem szerepel az országos listán.",
    "russian": "Эта библиотека содержит отчёты о реках и озёрах, которые не были в каталоге, а также карты для учёных.",
    "turkish": "Bu kütüphane göller için yazılan bir rapor olarak daha çok araştırma içindir.",
    "romanian": "Această bibliotecă are rapoarte despre lacuri care nu sunt în catalog, dar și hărți.",
    "indonesian": "Perpustakaan ini adalah kumpulan laporan dari sungai yang tidak ada dalam katalog untuk peneliti.",
    "greek": "Η βιβλιοθήκη έχει αναφορές για τα ποτάμια και τις λίμνες που δεν είναι στον κατάλογο από την αρχή.",
    "catalan": "Aquesta biblioteca té els informes de la recerca amb mapes que no són als catàlegs del país.",
    "norwegian": "Dette biblioteket har rapporter om elver som ikke er med, og det ble brukt også etter krigen.",
    "arabic": "هذه المكتبة من التقارير التي كان الباحث في البلاد على علم بها عن الأنهار مع الخرائط",
}


@pytest.mark.parametrize("language", TEXTS)
def test_small_words_tell_the_language(language: str) -> None:
    assert detect_language([TEXTS[language]]) == language
    assert stemmer(language)("x") == "x"


def test_labels_without_small_words_and_other_languages_are_none() -> None:
    assert detect_language(["Machine learning", "Botany", "Astronomy", "Chess"] * 10) == NONE
    assert detect_language(["Machine learning"] * 100 + ["the state of the art"]) == NONE  # a share of all words
    assert detect_language(["機械学習の研究", "東京都の歴史"]) == NONE
    assert detect_language([]) == detect_language(["", "!"]) == NONE
    assert stemmer(NONE)("networks") == "netwo" and stemmer("english")("networks") == "network"


def test_of_two_languages_the_one_with_more_texts_is_taken() -> None:
    german, english = TEXTS["german"], TEXTS["english"]
    assert detect_language([german, german, english]) == "german"
    assert detect_language([english, english, german]) == "english"


def test_every_language_that_may_be_set_has_stems() -> None:
    assert set(LANGUAGES) == set(algorithms()) - {"porter", "dutch_porter"}
    assert set(TEXTS) <= set(LANGUAGES)
