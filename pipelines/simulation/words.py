"""What the simulated shop sells, in four languages. Brands are invented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LANGUAGES: Final = ("de", "fr", "en", "es")


@dataclass(frozen=True, kw_only=True)
class CategoryWords:
    """A category of products.

    Args:
        name: Leaf of the category path.
        department: Root of the category path.
        nouns: Two product nouns for each of `LANGUAGES`.
        price: Median price in EUR.
        rhythm_days: Mean days between two purchases of a staple; None where nobody restocks.
        peak_day: Day of the year when it sells best.
        amplitude: How far the season swings around 1.
        return_share: Share of purchases that come back.
    """

    name: str
    department: str
    nouns: tuple[tuple[str, str], ...]
    price: float
    rhythm_days: float | None = None
    peak_day: int = 0
    amplitude: float = 0.0
    return_share: float = 0.02

    @property
    def path(self) -> str:
        return f"{self.department} > {self.name}"


def _category(
    name: str,
    department: str,
    nouns: str,
    price: float,
    rhythm_days: float | None = None,
    season: tuple[int, float] = (0, 0.0),
    return_share: float = 0.02,
) -> CategoryWords:
    """`nouns` holds the languages between semicolons and the two nouns between slashes."""
    pairs = [text.strip().split("/") for text in nouns.split(";")]
    return CategoryWords(
        name=name,
        department=department,
        nouns=tuple((first, second) for first, second in pairs),
        price=price,
        rhythm_days=rhythm_days,
        peak_day=season[0],
        amplitude=season[1],
        return_share=return_share,
    )


_WINTER: Final = (15, 0.8)
_SUMMER: Final = (190, 0.8)
_SPRING: Final = (110, 0.6)
_ADVENT: Final = (345, 0.6)

CATEGORIES: Final = (
    _category(
        "Coffee",
        "Grocery",
        "Kaffeebohnen/Espresso; café en grains/expresso; coffee beans/espresso;"
        "café en grano/expreso",
        9.0,
        21,
    ),
    _category(
        "Tea",
        "Grocery",
        "Grüntee/Kräutertee; thé vert/tisane; green tea/herbal tea; té verde/infusión",
        4.0,
        30,
        _WINTER,
    ),
    _category(
        "Chocolate",
        "Grocery",
        "Schokoladentafel/Pralinen; tablette de chocolat/pralines; chocolate bar/truffles;"
        "tableta de chocolate/bombones",
        3.0,
        14,
        _ADVENT,
    ),
    _category(
        "Pasta",
        "Grocery",
        "Spaghetti/Nudeln; spaghettis/nouilles; spaghetti/noodles; espaguetis/fideos",
        2.0,
        18,
    ),
    _category(
        "Laundry",
        "Household",
        "Waschmittel/Weichspüler; lessive/adoucissant; detergent/fabric softener;"
        "detergente/suavizante",
        8.0,
        35,
    ),
    _category(
        "Paper",
        "Household",
        "Toilettenpapier/Küchenrolle; papier toilette/essuie-tout; toilet paper/kitchen roll;"
        "papel higiénico/papel de cocina",
        5.0,
        24,
    ),
    _category(
        "Cleaning",
        "Household",
        "Schwamm/Glasreiniger; éponge/nettoyant vitres; sponge/glass cleaner;"
        "esponja/limpiacristales",
        3.5,
        40,
        _SPRING,
    ),
    _category(
        "Pet food",
        "Household",
        "Hundefutter/Katzenfutter; croquettes chien/pâtée chat; dog food/cat food;"
        "comida para perros/comida para gatos",
        14.0,
        16,
    ),
    _category(
        "Hair care",
        "Beauty",
        "Haarshampoo/Haarspülung; shampooing/après-shampooing; shampoo/conditioner;"
        "champú/acondicionador",
        6.0,
        45,
    ),
    _category(
        "Skin care",
        "Beauty",
        "Gesichtscreme/Sonnencreme; crème visage/crème solaire; face cream/sun cream;"
        "crema facial/crema solar",
        12.0,
        50,
        _SUMMER,
    ),
    _category(
        "Oral care",
        "Beauty",
        "Zahnpasta/Zahnbürste; dentifrice/brosse à dents; toothpaste/toothbrush;"
        "pasta de dientes/cepillo de dientes",
        3.0,
        38,
    ),
    _category(
        "Fragrance",
        "Beauty",
        "Parfüm/Duftspray; parfum/eau de toilette; perfume/body spray; perfume/colonia",
        35.0,
        season=_ADVENT,
    ),
    _category(
        "Shoes",
        "Fashion",
        "Turnschuhe/Stiefel; baskets/bottes; sneakers/boots; zapatillas/botas",
        60.0,
        return_share=0.3,
    ),
    _category(
        "Jackets",
        "Fashion",
        "Regenjacke/Winterjacke; imperméable/doudoune; raincoat/winter jacket;chubasquero/abrigo",
        90.0,
        season=_WINTER,
        return_share=0.25,
    ),
    _category(
        "Dresses",
        "Fashion",
        "Sommerkleid/Rock; robe d'été/jupe; summer dress/skirt; vestido de verano/falda",
        45.0,
        season=_SUMMER,
        return_share=0.3,
    ),
    _category(
        "Bags",
        "Fashion",
        "Rucksack/Handtasche; sac à dos/sac à main; backpack/handbag; mochila/bolso",
        50.0,
        return_share=0.15,
    ),
    _category(
        "Cycling",
        "Sport",
        "Fahrradhelm/Fahrradschloss; casque vélo/antivol vélo; bicycle helmet/bicycle lock;"
        "casco de bicicleta/candado de bicicleta",
        40.0,
        season=_SPRING,
        return_share=0.08,
    ),
    _category(
        "Fitness",
        "Sport",
        "Yogamatte/Hantel; tapis de yoga/haltère; yoga mat/dumbbell;esterilla de yoga/mancuerna",
        25.0,
        season=_WINTER,
        return_share=0.06,
    ),
    _category(
        "Swimming",
        "Sport",
        "Badeanzug/Schwimmbrille; maillot de bain/lunettes de natation; swimsuit/swim goggles;"
        "bañador/gafas de natación",
        22.0,
        season=_SUMMER,
        return_share=0.18,
    ),
    _category(
        "Camping",
        "Sport",
        "Zelt/Schlafsack; tente/sac de couchage; tent/sleeping bag;"
        "tienda de campaña/saco de dormir",
        80.0,
        season=_SUMMER,
        return_share=0.08,
    ),
    _category(
        "Lighting",
        "Home",
        "Schreibtischlampe/Kerze; lampe de bureau/bougie; desk lamp/candle;"
        "lámpara de escritorio/vela",
        18.0,
        season=_ADVENT,
        return_share=0.05,
    ),
    _category(
        "Bedding",
        "Home",
        "Kopfkissen/Wolldecke; oreiller/couverture; pillow/blanket; almohada/manta",
        30.0,
        season=_WINTER,
        return_share=0.07,
    ),
    _category(
        "Kitchen",
        "Home",
        "Bratpfanne/Wasserkocher; poêle/bouilloire; frying pan/kettle; sartén/hervidor",
        28.0,
        return_share=0.05,
    ),
    _category(
        "Garden",
        "Home",
        "Gießkanne/Blumentopf; arrosoir/pot de fleurs; watering can/plant pot;regadera/maceta",
        15.0,
        season=_SPRING,
        return_share=0.03,
    ),
)

QUALITIES: Final = (
    ("leicht", "weich", "groß", "klein", "natur", "klassisch", "nachhaltig", "Reise"),
    ("léger", "doux", "grand", "petit", "naturel", "classique", "durable", "voyage"),
    ("light", "soft", "large", "small", "natural", "classic", "sustainable", "travel"),
    ("ligero", "suave", "grande", "pequeño", "natural", "clásico", "sostenible", "viaje"),
)
COLOURS: Final = (
    ("schwarz", "weiß", "rot", "blau", "grün", "grau"),
    ("noir", "blanc", "rouge", "bleu", "vert", "gris"),
    ("black", "white", "red", "blue", "green", "grey"),
    ("negro", "blanco", "rojo", "azul", "verde", "gris"),
)
BRANDS: Final = (
    *("Norvikko", "Altasola", "Brunavel", "Calderio", "Dorimare", "Eskelund"),
    *("Fjorlan", "Galvetta", "Harrowin", "Ilvaro", "Jandoria", "Kestrano"),
    *("Lumavere", "Mirabont", "Nelvinde", "Orsanto", "Pellarin", "Quorvia"),
    *("Rivandel", "Solmarka", "Tarvello", "Umbriso", "Velkorra", "Wendalis"),
)
NUM_BRANDS_OF_A_CATEGORY: Final = 4


def brands_of(category: int) -> tuple[str, ...]:
    """The brands that make products of a category; neighbours share some."""
    first = 2 * category
    return tuple(BRANDS[(first + i) % len(BRANDS)] for i in range(NUM_BRANDS_OF_A_CATEGORY))
