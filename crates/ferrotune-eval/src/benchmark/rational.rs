//! Answers of MATH compared as numbers. A rule of our own beside the authors', under its own name.

/// Whether two answers are the same rational number, read exactly from decimals, fractions (`a/b`, `\frac{a}{b}`), mixed
/// numbers, signs, thousands commas, products, sums and whole powers; or equal as they are written, dollar signs and
/// spaces aside.
///
/// It knows no roots, no variables and no units: those are compared as text. Not a rule of any reference.
///
/// ```
/// use ferrotune_eval::benchmark::same_rational;
/// assert!(same_rational(r"\frac{2}{4}", "0.5") && same_rational("1,000", "1000.0") && same_rational("-2/3", r"\dfrac{2}{-3}"));
/// assert!(!same_rational("5", "-5") && !same_rational("(1,2)", "1.2"));
/// ```
#[must_use]
pub fn same_rational(a: &str, b: &str) -> bool {
    let (a, b) = (bare(a), bare(b));
    if a == b {
        return true;
    }
    match (Rational::parse(&a), Rational::parse(&b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

/// One spelling for what LaTeX spells in several ways.
fn bare(answer: &str) -> String {
    let mut text = answer.trim().trim_end_matches(['.', ',']).to_owned();
    for (from, to) in [
        ("\\$", ""),
        ("$", ""),
        (r"\left", ""),
        (r"\right", ""),
        (r"\!", ""),
        (r"\,", ""),
        (r"\ ", ""),
        ("tfrac", "frac"),
        ("dfrac", "frac"),
        (r"\cdot", "*"),
        (r"\times", "*"),
        ("−", "-"),
    ] {
        text = text.replace(from, to);
    }
    text.retain(|c| !c.is_whitespace());
    text
}

/// In lowest terms, the denominator above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rational {
    numerator: i128,
    denominator: i128,
}

impl Rational {
    fn new(numerator: i128, denominator: i128) -> Option<Self> {
        if denominator == 0 {
            return None;
        }
        let (mut a, mut b) = (numerator.checked_abs()?, denominator.checked_abs()?);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        let divisor = a.checked_mul(denominator.signum())?;
        Some(Self { numerator: numerator / divisor, denominator: denominator / divisor })
    }

    fn plus(self, other: Self) -> Option<Self> {
        let left = self.numerator.checked_mul(other.denominator)?;
        let right = other.numerator.checked_mul(self.denominator)?;
        Self::new(left.checked_add(right)?, self.denominator.checked_mul(other.denominator)?)
    }

    fn times(self, other: Self) -> Option<Self> {
        let numerator = self.numerator.checked_mul(other.numerator)?;
        Self::new(numerator, self.denominator.checked_mul(other.denominator)?)
    }

    fn over(self, other: Self) -> Option<Self> {
        self.times(Self::new(other.denominator, other.numerator)?)
    }

    fn negated(self) -> Option<Self> {
        Self::new(self.numerator.checked_neg()?, self.denominator)
    }

    fn power(self, exponent: u32) -> Option<Self> {
        Self::new(self.numerator.checked_pow(exponent)?, self.denominator.checked_pow(exponent)?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parser = Parser { rest: text, depth: 0 };
        let value = parser.sum()?;
        parser.rest.is_empty().then_some(value)
    }
}

/// How deep parentheses may nest; answers nest two or three deep.
const DEPTH: usize = 32;

struct Parser<'t> {
    rest: &'t str,
    depth: usize,
}

impl Parser<'_> {
    fn take(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        self.rest = rest;
        true
    }

    fn sum(&mut self) -> Option<Rational> {
        self.depth += 1;
        if self.depth > DEPTH {
            return None;
        }
        let mut value = self.product()?;
        loop {
            if self.take("+") {
                value = value.plus(self.product()?)?;
            } else if self.take("-") {
                value = value.plus(self.product()?.negated()?)?;
            } else {
                self.depth -= 1;
                return Some(value);
            }
        }
    }

    fn product(&mut self) -> Option<Rational> {
        let mut value = self.signed()?;
        loop {
            if self.take("*") {
                value = value.times(self.signed()?)?;
            } else if self.take("/") {
                value = value.over(self.signed()?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn signed(&mut self) -> Option<Rational> {
        let negative = self.take("-");
        if !negative {
            self.take("+");
        }
        let value = self.power()?;
        if negative { value.negated() } else { Some(value) }
    }

    fn power(&mut self) -> Option<Rational> {
        let value = self.atom()?;
        if !self.take("^") {
            return Some(value);
        }
        let exponent = self.atom()?;
        let whole = u32::try_from(exponent.numerator).ok().filter(|_| exponent.denominator == 1)?;
        value.power(whole)
    }

    fn atom(&mut self) -> Option<Rational> {
        for (open, close) in [("(", ")"), ("{", "}")] {
            if self.take(open) {
                let value = self.sum()?;
                return self.take(close).then_some(value);
            }
        }
        if self.take(r"\frac") {
            let above = self.argument()?;
            return above.over(self.argument()?);
        }
        let number = self.number()?;
        // `1\frac{1}{2}` is a mixed number, as schools write it.
        if self.rest.starts_with(r"\frac") && number.denominator == 1 {
            return number.plus(self.atom()?);
        }
        Some(number)
    }

    /// What a LaTeX command takes: a group, or a single digit.
    fn argument(&mut self) -> Option<Rational> {
        if self.rest.starts_with('{') {
            return self.atom();
        }
        let digit = self.rest.chars().next()?.to_digit(10)?;
        self.rest = &self.rest[1..];
        Rational::new(i128::from(digit), 1)
    }

    fn number(&mut self) -> Option<Rational> {
        let length = self.rest.bytes().take_while(|b| b.is_ascii_digit() || b".,".contains(b)).count();
        let (text, rest) = self.rest.split_at(length);
        self.rest = rest;
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let groups: Vec<&str> = whole.split(',').collect();
        let grouped = groups.len() == 1
            || (1..=3).contains(&groups[0].len()) && groups[1..].iter().all(|group| group.len() == 3);
        if !grouped || fraction.contains([',', '.']) || whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let digits = groups.concat() + fraction;
        let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        Rational::new(digits.parse().ok()?, scale)
    }
}
