//! Suggestions for mistyped words.

/// Minimum similarity; below it, almost anything looks alike. This is clap's own bound
/// and measure, which makes all typing mistakes behave alike.
const ALIKE: f64 = 0.7;

/// Maximum number of words to suggest.
const NAMED: usize = 3;

/// The words of `known` that may have been meant, the most likely first.
pub fn nearest<'w>(word: &str, known: impl IntoIterator<Item = &'w str>) -> Vec<String> {
    let mut scored: Vec<(f64, &str)> = known
        .into_iter()
        .map(|known| (strsim::jaro(word, known), known))
        .filter(|(likeness, _)| *likeness > ALIKE)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.dedup();
    let named = scored.into_iter().take(NAMED);
    named.map(|(_, known)| known.to_owned()).collect()
}

/// `; did you mean ...?`, or an empty string, to append to an error message.
pub fn did_you_mean(nearest: &[String]) -> String {
    if nearest.is_empty() {
        return String::new();
    }
    let quoted: Vec<String> = nearest.iter().map(|name| format!("`{name}`")).collect();
    format!("; did you mean {}?", quoted.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_comes_first_and_the_unlike_not_at_all() {
        let known = ["db", "web2", "web1", "webshop", "web1"];
        let near = nearest("wbe1", known);
        assert_eq!(near.first().map(String::as_str), Some("web1"));
        assert!(near.len() <= NAMED && !near.contains(&"db".to_owned()));
        assert!(did_you_mean(&near).starts_with("; did you mean `web1`"));
        assert!(nearest("postgres", known).is_empty());
        assert_eq!(did_you_mean(&[]), "");
    }

    /// Names of records begin with the year, and so share a long prefix.
    #[test]
    fn a_long_beginning_in_common_is_not_all_that_counts() {
        let known = ["2026-11-23T15-34-44Z-web1", "2026-11-23T15-34-44Z-db"];
        let near = nearest("2026-11-23T15-34-44Z-wbe1", known);
        assert_eq!(near.first().map(String::as_str), Some(known[0]));
    }
}
