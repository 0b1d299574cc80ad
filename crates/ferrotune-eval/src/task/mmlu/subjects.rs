//! The 57 subjects and the four categories that averages are taken over.

/// lm-evaluation-harness' categories, which differ from the authors' for anatomy only.
const SUBJECTS: [(&str, Category); 57] = {
    use Category::{Humanities, Other, SocialSciences, Stem};
    [
        ("abstract_algebra", Stem),
        ("anatomy", Stem),
        ("astronomy", Stem),
        ("business_ethics", Other),
        ("clinical_knowledge", Other),
        ("college_biology", Stem),
        ("college_chemistry", Stem),
        ("college_computer_science", Stem),
        ("college_mathematics", Stem),
        ("college_medicine", Other),
        ("college_physics", Stem),
        ("computer_security", Stem),
        ("conceptual_physics", Stem),
        ("econometrics", SocialSciences),
        ("electrical_engineering", Stem),
        ("elementary_mathematics", Stem),
        ("formal_logic", Humanities),
        ("global_facts", Other),
        ("high_school_biology", Stem),
        ("high_school_chemistry", Stem),
        ("high_school_computer_science", Stem),
        ("high_school_european_history", Humanities),
        ("high_school_geography", SocialSciences),
        ("high_school_government_and_politics", SocialSciences),
        ("high_school_macroeconomics", SocialSciences),
        ("high_school_mathematics", Stem),
        ("high_school_microeconomics", SocialSciences),
        ("high_school_physics", Stem),
        ("high_school_psychology", SocialSciences),
        ("high_school_statistics", Stem),
        ("high_school_us_history", Humanities),
        ("high_school_world_history", Humanities),
        ("human_aging", Other),
        ("human_sexuality", SocialSciences),
        ("international_law", Humanities),
        ("jurisprudence", Humanities),
        ("logical_fallacies", Humanities),
        ("machine_learning", Stem),
        ("management", Other),
        ("marketing", Other),
        ("medical_genetics", Other),
        ("miscellaneous", Other),
        ("moral_disputes", Humanities),
        ("moral_scenarios", Humanities),
        ("nutrition", Other),
        ("philosophy", Humanities),
        ("prehistory", Humanities),
        ("professional_accounting", Other),
        ("professional_law", Humanities),
        ("professional_medicine", Other),
        ("professional_psychology", SocialSciences),
        ("public_relations", SocialSciences),
        ("security_studies", SocialSciences),
        ("sociology", SocialSciences),
        ("us_foreign_policy", SocialSciences),
        ("virology", Other),
        ("world_religions", Humanities),
    ]
};

/// A category of subjects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Category {
    Stem,
    Humanities,
    SocialSciences,
    Other,
}

impl Category {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stem => "stem",
            Self::Humanities => "humanities",
            Self::SocialSciences => "social_sciences",
            Self::Other => "other",
        }
    }
}

/// Whose table of categories is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Categories {
    /// lm-evaluation-harness': anatomy is a science.
    LmEval,
    /// Those of hendrycks/test, which simple-evals has too: anatomy is among the others.
    Hendrycks,
}

/// The names of the subjects, in alphabetical order.
pub(super) fn subjects() -> impl Iterator<Item = &'static str> {
    SUBJECTS.iter().map(|(name, _)| *name)
}

pub(super) fn category(subject: &str, table: Categories) -> Option<Category> {
    if table == Categories::Hendrycks && subject == "anatomy" {
        return Some(Category::Other);
    }
    SUBJECTS.iter().find(|(name, _)| *name == subject).map(|(_, category)| *category)
}
