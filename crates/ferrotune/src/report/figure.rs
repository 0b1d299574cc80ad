//! The loss curves as inline SVG: one panel that compares training, and one per model that sets validation against it.
//!
//! A panel is as wide as a telephone and is never scaled up much, so its text keeps the size of the page's. Models
//! differ in colour, dash and marker, kinds of loss in weight and markers: each alone survives a grey printer. Colours
//! are classes that the page's style sheet resolves for a light or a dark background.

use svg::{
    Document,
    node::element::{Circle, Description, Element, Group, Line, Path, Text, Title, path::Data},
};

use super::{axis::Axis, curves, summary::Summary};
use crate::study::{CurvePoint, ModelResults, Overfitting, StudyResults};

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 264.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 346.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 222.0;
/// More markers than this make a line of their own.
const MOST_MARKERS: usize = 9;
/// Dash patterns, a model's in the order of the study; the first is a plain line.
const DASHES: [&str; 5] = ["none", "7 3", "2 2.5", "8 2.5 2 2.5", "4 2"];
/// Colours and markers repeat after this many models; dashes and the legend still tell them apart.
const STYLES: usize = 5;

/// A panel: an SVG element to be put into a page.
#[derive(Clone, Debug)]
pub(super) struct Panel {
    pub title: String,
    pub svg: String,
}

/// The two entries of a model in the legend.
#[derive(Clone, Debug)]
pub(super) struct Swatches {
    pub training: String,
    pub validation: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    Training,
    Validation,
}

/// All panels; none if no run has a curve.
pub(super) fn panels(results: &StudyResults, summary: &Summary) -> Vec<Panel> {
    let (Some(steps), Some(losses)) = (&summary.figure.steps, &summary.figure.losses) else {
        return Vec::new();
    };
    let plot = Plot { steps, losses };
    let mut panels = Vec::new();
    if results.models.len() > 1 {
        let title = "Training loss of all models".to_owned();
        let names: Vec<&str> = results.models.iter().map(|model| model.name.as_str()).collect();
        let description = format!("Training loss over optimizer steps: {}.", names.join("; "));
        let mut document = plot.frame(panels.len(), &title, &description);
        for (i, model) in results.models.iter().enumerate() {
            document = document.add(plot.family(i, model, Loss::Training));
        }
        panels.push(Panel { title, svg: document.to_string() });
    }
    for (i, model) in results.models.iter().enumerate().filter(|(_, model)| !model.runs.is_empty()) {
        let has_validation = model.runs.iter().any(|run| !run.validation_curve.is_empty());
        let title = if has_validation {
            format!("{}: validation against training", model.name)
        } else {
            format!("{}: training only, validation loss was not measured", model.name)
        };
        let description = format!("Loss over optimizer steps of {}.", model.name);
        let mut document = plot.frame(panels.len(), &title, &description);
        document =
            document.add(plot.family(i, model, Loss::Training)).add(plot.family(i, model, Loss::Validation));
        let marks: Vec<Overfitting> = model.runs.iter().filter_map(|run| run.overfitting).collect();
        if !marks.is_empty() {
            document = document.add(plot.overfitting(&marks));
        }
        panels.push(Panel { title, svg: document.to_string() });
    }
    panels
}

/// The legend's samples of a model's lines.
pub(super) fn swatches(model: usize) -> Swatches {
    let draw = |loss: Loss| {
        let line = Line::new().set("x1", 1).set("y1", 7).set("x2", 39).set("y2", 7);
        let line = line.set("class", stroke(model, loss, true)).set("stroke-dasharray", dash(model));
        let mut document = Document::new()
            .set("viewBox", (0, 0, 40, 14))
            .set("width", 40)
            .set("height", 14)
            .set("class", "swatch")
            .set("aria-hidden", "true")
            .add(line);
        if loss == Loss::Validation {
            document = document.add(marker(model, 20.0, 7.0));
        }
        document.to_string()
    };
    Swatches { training: draw(Loss::Training), validation: draw(Loss::Validation) }
}

struct Plot<'a> {
    steps: &'a Axis,
    losses: &'a Axis,
}

impl Plot<'_> {
    fn x(&self, step: u64) -> f64 {
        round(LEFT + (RIGHT - LEFT) * self.steps.position(step as f64))
    }

    fn y(&self, loss: f64) -> f64 {
        round(BOTTOM - (BOTTOM - TOP) * self.losses.position(loss))
    }

    /// Title, axes and grid.
    fn frame(&self, number: usize, title: &str, description: &str) -> Document {
        let (title_id, description_id) =
            (format!("panel-{number}-title"), format!("panel-{number}-description"));
        let mut grid = Group::new().set("class", "grid");
        let mut labels = Group::new().set("class", "ticks");
        for &tick in &self.losses.ticks {
            let y = self.y(tick);
            grid = grid.add(Line::new().set("x1", LEFT).set("x2", RIGHT).set("y1", y).set("y2", y));
            labels = labels.add(
                Text::new(self.losses.label(tick))
                    .set("x", LEFT - 7.0)
                    .set("y", y + 4.0)
                    .set("text-anchor", "end"),
            );
        }
        for &tick in &self.steps.ticks {
            let x = round(LEFT + (RIGHT - LEFT) * self.steps.position(tick));
            grid = grid.add(Line::new().set("x1", x).set("x2", x).set("y1", BOTTOM).set("y2", BOTTOM + 4.0));
            // A label at the end of the axis would leave the picture if it were centred.
            let (anchor, x) = if x > RIGHT - 12.0 { ("end", RIGHT + 6.0) } else { ("middle", x) };
            labels = labels.add(
                Text::new(self.steps.label(tick))
                    .set("x", x)
                    .set("y", BOTTOM + 18.0)
                    .set("text-anchor", anchor),
            );
        }
        let axis = Line::new().set("x1", LEFT).set("x2", RIGHT).set("y1", BOTTOM).set("y2", BOTTOM);
        let name = Text::new("optimizer step")
            .set("x", (LEFT + RIGHT) / 2.0)
            .set("y", HEIGHT - 7.0)
            .set("text-anchor", "middle");
        Document::new()
            .set("viewBox", (0, 0, WIDTH, HEIGHT))
            .set("role", "img")
            .set("aria-labelledby", format!("{title_id} {description_id}"))
            .add(Title::new(title).set("id", title_id))
            .add(Description::new().set("id", description_id).add(svg::node::Text::new(description)))
            .add(grid)
            .add(axis.set("class", "axis"))
            .add(labels.add(name))
    }

    /// The curves of all runs of a model, faint, and their mean over them.
    fn family(&self, model: usize, results: &ModelResults, loss: Loss) -> Group {
        let curves: Vec<Vec<CurvePoint>> = results
            .runs
            .iter()
            .map(|run| match loss {
                Loss::Training => curves::thinned(&run.training_curve),
                Loss::Validation => curves::thinned(&run.validation_curve),
            })
            .filter(|curve| !curve.is_empty())
            .collect();
        let mut group = Group::new();
        let mean = curves::mean(&curves);
        if curves.len() > 1 {
            for curve in &curves {
                group = group.add(self.line(curve, model, loss, mean.is_empty()));
            }
        }
        if mean.is_empty() {
            return group;
        }
        group = group.add(self.line(&mean, model, loss, true));
        // A single point has no line.
        if loss == Loss::Validation || mean.len() == 1 {
            let every = mean.len().div_ceil(MOST_MARKERS);
            for point in mean.iter().rev().step_by(every) {
                group = group.add(marker(model, self.x(point.step), self.y(point.loss)));
            }
        }
        group
    }

    fn line(&self, curve: &[CurvePoint], model: usize, loss: Loss, strong: bool) -> Path {
        let mut data = Data::new();
        for (i, point) in curve.iter().enumerate() {
            let at = (self.x(point.step), self.y(point.loss));
            data = if i == 0 { data.move_to(at) } else { data.line_to(at) };
        }
        Path::new()
            .set("d", data)
            .set("class", stroke(model, loss, strong))
            .set("stroke-dasharray", dash(model))
    }

    /// A rule and a ring at each run's lowest validation loss, and one label for all of them.
    fn overfitting(&self, marks: &[Overfitting]) -> Group {
        let mut group = Group::new().set("class", "overfitting");
        let mut steps: Vec<u64> = marks.iter().map(|mark| mark.step).collect();
        steps.sort_unstable();
        steps.dedup();
        for &step in &steps {
            let x = self.x(step);
            group = group.add(Line::new().set("x1", x).set("x2", x).set("y1", TOP - 6.0).set("y2", BOTTOM));
        }
        for mark in marks {
            let (x, y) = (self.x(mark.step), self.y(mark.lowest_loss));
            group = group.add(Circle::new().set("cx", x).set("cy", y).set("r", 6));
        }
        let label = match (steps.first(), steps.last()) {
            (Some(first), Some(last)) if first != last => format!("overfits after steps {first} to {last}"),
            (Some(step), _) => format!("overfits after step {step}"),
            _ => return group,
        };
        let middle = self.x(*steps.first().unwrap_or(&0)).midpoint(self.x(*steps.last().unwrap_or(&0)));
        // About half of the label's width at its font size.
        let half = 3.1 * label.len() as f64;
        let x = round(middle.clamp(LEFT + half, RIGHT - half));
        group.add(Text::new(label).set("x", x).set("y", TOP - 11.0).set("text-anchor", "middle"))
    }
}

fn stroke(model: usize, loss: Loss, strong: bool) -> String {
    let kind = if loss == Loss::Training { "training" } else { "validation" };
    let weight = if strong { "strong" } else { "faint" };
    format!("line {kind} {weight} m{}", model % STYLES)
}

/// Dashes move on by one with each round of colours and markers.
fn dash(model: usize) -> &'static str {
    DASHES[(model + model / STYLES) % DASHES.len()]
}

/// A model's marker: circle, square, triangle, diamond or a triangle upside down.
fn marker(model: usize, x: f64, y: f64) -> Element {
    const R: f64 = 3.4;
    let shape = |points: &[(f64, f64)]| {
        let mut data = Data::new();
        for (i, (dx, dy)) in points.iter().enumerate() {
            let at = (round(x + dx * R), round(y + dy * R));
            data = if i == 0 { data.move_to(at) } else { data.line_to(at) };
        }
        Element::from(Path::new().set("d", data.close()))
    };
    let mut element = match model % STYLES {
        0 => Element::from(Circle::new().set("cx", x).set("cy", y).set("r", R)),
        1 => shape(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
        2 => shape(&[(0.0, -1.2), (1.1, 0.8), (-1.1, 0.8)]),
        3 => shape(&[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)]),
        _ => shape(&[(0.0, 1.2), (1.1, -0.8), (-1.1, -0.8)]),
    };
    element.get_attributes_mut().insert("class".to_owned(), format!("marker m{}", model % STYLES).into());
    element
}

/// A tenth of a pixel is as fine as anyone sees, and keeps the file small.
fn round(x: f64) -> f64 {
    (x * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{DASHES, STYLES, swatches};

    #[test]
    fn models_are_told_apart_by_their_lines() {
        let models = STYLES * DASHES.len();
        let lines: BTreeSet<String> = (0..models).map(|model| swatches(model).training).collect();
        assert_eq!(lines.len(), models);
    }
}
