use std::ops::Range;

/// Tokens to condition on and tokens to score, of a text that is longer than a model reads at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The tokens that the model is fed, in order.
    pub input: Vec<u32>,
    /// The tokens that are scored; they end one position after [`input`](Self::input).
    pub scored: Vec<u32>,
}

/// Cuts a text into windows so that every token is scored exactly once.
///
/// The first window scores up to `max_len` tokens after `prefix`; each later one scores the next
/// `max_len - context_len + 1` tokens with as much context as fits. Ranges: `max_len` at least 1, `context_len` from 1
/// to `max_len`; values outside are taken as the nearest inside.
///
/// *Source*: `get_rolling_token_windows` of lm-evaluation-harness.
#[must_use]
pub fn rolling_windows(tokens: &[u32], prefix: u32, max_len: usize, context_len: usize) -> Vec<Window> {
    let max_len = max_len.max(1);
    let step = max_len - context_len.clamp(1, max_len) + 1;
    let mut windows = Vec::new();
    let first = max_len.min(tokens.len());
    if first > 0 {
        let input = std::iter::once(prefix).chain(tokens[..first - 1].iter().copied()).collect();
        windows.push(Window { input, scored: tokens[..first].to_vec() });
    }
    let mut done = first;
    while done < tokens.len() {
        let end = tokens.len().min(done + step);
        let input: Range<usize> = end - max_len - 1..end - 1;
        windows.push(Window { input: tokens[input].to_vec(), scored: tokens[done..end].to_vec() });
        done = end;
    }
    windows
}

/// Drops from the input of a window what stands in its scored tokens already, leaving pure context and continuation.
///
/// *Source*: `make_disjoint_window` of lm-evaluation-harness.
#[must_use]
pub fn disjoint(window: Window) -> Window {
    let context = (window.input.len() + 1).saturating_sub(window.scored.len());
    Window { input: window.input[..context.min(window.input.len())].to_vec(), scored: window.scored }
}
