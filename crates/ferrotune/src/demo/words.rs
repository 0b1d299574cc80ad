//! The words the demo world is made of.
//!
//! A name is an onset, a vowel, a middle and an ending; the ending tells what is named. All adjectives begin with a
//! consonant, so that "a" is the right article before every pair of adjective and noun.

pub(super) const ONSETS: &[&str] = &[
    "b", "br", "c", "d", "dr", "f", "g", "gl", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "th", "tr",
    "v", "z",
];

pub(super) const VOWELS: &[&str] = &["a", "e", "i", "o", "u"];

pub(super) const MIDDLES: &[&str] = &["l", "ll", "m", "n", "nd", "r", "rn", "s", "v", "lb", "rd", "k"];

pub(super) const LAND_ENDINGS: &[&str] = &["mora", "via", "land", "aria", "onia", "esh"];

pub(super) const PLACE_ENDINGS: &[&str] = &["burg", "ton", "ford", "haven", "wick", "stead"];

pub(super) const RIVER_ENDINGS: &[&str] = &["el", "ine", "une", "ith", "osk"];

pub(super) const PERSON_ENDINGS: &[&str] = &["a", "an", "en", "is", "o", "in"];

pub(super) const ADJECTIVES: &[&str] = &[
    "black", "blue", "bright", "brown", "copper", "dark", "dry", "fine", "fresh", "golden", "green", "grey",
    "heavy", "late", "light", "long", "mild", "pale", "plain", "purple", "red", "rough", "round", "salted",
    "sharp", "short", "silver", "smoked", "soft", "sour", "spiced", "sweet", "tall", "warm", "white", "wild",
    "young",
];

pub(super) const GOODS: &[&str] = &[
    "apples", "barley", "beans", "beets", "berries", "butter", "candles", "carpets", "cheese", "cider",
    "cloth", "coal", "cotton", "figs", "flax", "flour", "furs", "glass", "grapes", "herbs", "honey", "hops",
    "ink", "iron", "leather", "linen", "maize", "mint", "oats", "oil", "olives", "onions", "paper", "pears",
    "plums", "pottery", "rice", "rope", "rye", "salt", "silk", "soap", "spices", "tea", "timber", "tin",
    "wax", "wheat", "wine", "wool",
];

pub(super) const ANIMALS: &[&str] = &[
    "badger", "beetle", "camel", "cat", "crane", "cricket", "crow", "deer", "donkey", "dove", "duck",
    "eagle", "falcon", "ferret", "finch", "fox", "frog", "goat", "goose", "hare", "hawk", "hedgehog", "hen",
    "heron", "horse", "lamb", "lizard", "lynx", "mole", "moth", "mouse", "mule", "newt", "otter", "owl",
    "ox", "parrot", "pig", "pony", "rabbit", "rat", "raven", "robin", "seal", "sheep", "snail", "sparrow",
    "stork", "swan", "toad", "trout", "turtle", "weasel", "wolf",
];
