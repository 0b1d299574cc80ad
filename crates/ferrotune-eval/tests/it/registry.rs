use ferrotune_eval::{Error, Pair, Registry, exact_match::RawExactMatch};

#[test]
fn lists_resolve_in_order_and_report_nothing_twice() {
    let registry = Registry::with_text_metrics().unwrap();
    for (list, expected) in [
        ("bleu", vec!["bleu"]),
        (" token_f1 , rouge2,", vec!["token_f1", "rouge2"]),
        ("rouge1,rouge,rougeL", vec!["rouge1", "rouge2", "rougeL", "rougeLsum"]),
        ("bleu,bleu", vec!["bleu"]),
        ("rouge3,rouge", vec!["rouge3", "rouge1", "rouge2", "rougeL", "rougeLsum"]),
    ] {
        let found: Vec<String> = registry.resolve(list).unwrap().iter().flat_map(|m| m.outputs()).collect();
        assert_eq!(found, expected, "{list:?}");
    }
}

#[test]
fn every_metric_measures_what_it_says_it_outputs() {
    let registry = Registry::with_text_metrics().unwrap();
    let pairs = [Pair::new("1", "a b c", "a b d"), Pair::new("2", "", "x")];
    for name in registry.names() {
        for metric in registry.resolve(name).unwrap() {
            let found: Vec<String> = metric.measure(&pairs).unwrap().into_iter().map(|m| m.metric).collect();
            assert_eq!(found, metric.outputs(), "{name}");
        }
    }
}

#[test]
fn unknown_names_are_refused_with_the_list() {
    let registry = Registry::with_text_metrics().unwrap();
    let error = registry.resolve("bleu,blue").unwrap_err();
    assert!(matches!(&error, Error::UnknownMetric { name, .. } if name == "blue"));
    for name in registry.names() {
        assert!(error.to_string().contains(name), "{error}");
    }
    assert!(matches!(registry.resolve(" , ").unwrap_err(), Error::NoMetric { .. }));
}

#[test]
fn names_are_taken_once() {
    let mut registry = Registry::with_text_metrics().unwrap();
    let error = registry.insert("exact_match", RawExactMatch::default()).unwrap_err();
    assert!(matches!(error, Error::DuplicateMetric { .. }));
    registry.replace("exact_match", RawExactMatch { ignore_case: true, ..RawExactMatch::default() });
    let metric = &registry.resolve("exact_match").unwrap()[0];
    assert_eq!(metric.measure(&[Pair::new("1", "A", "a")]).unwrap()[0].value(), Some(1.0));
}
