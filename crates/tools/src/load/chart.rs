//! Charts of results, as SVG.

use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

/// Size of a chart, in pixels.
const SIZE: (u32, u32) = (760, 420);

const FONT: &str = "sans-serif";
const GRID: RGBColor = RGBColor(225, 228, 232);
const INK: RGBColor = RGBColor(60, 66, 74);

/// Colours that also differ in greyscale and for colour-blind readers.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(204, 51, 68),
    RGBColor(120, 120, 120),
    RGBColor(0, 158, 115),
];

/// A line of a chart.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// Labels of the points; none, or one each.
    pub(super) words: Vec<String>,
}

/// A chart.
pub(super) struct Chart {
    /// File name without extension.
    pub(super) name: &'static str,
    pub(super) title: String,
    pub(super) x: &'static str,
    pub(super) y: &'static str,
    /// The vertical axis is logarithmic; else it begins at 0.
    pub(super) is_log: bool,
    /// The horizontal axis begins at 0.
    pub(super) from_zero: bool,
    pub(super) lines: Vec<Line>,
}

impl Chart {
    /// The chart as SVG.
    ///
    /// # Errors
    /// Why it could not be drawn.
    pub(super) fn draw(&self) -> Result<String, String> {
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        self.draw_on(&area).map_err(|error| format!("{}: {error}", self.name))?;
        drop(area);
        Ok(svg)
    }

    fn draw_on(&self, area: &Area<'_>) -> Result<(), DrawingError> {
        area.fill(&WHITE)?;
        let mut builder = ChartBuilder::on(area);
        builder
            .caption(&self.title, (FONT, 18).into_font().color(&INK))
            .margin(16)
            .set_label_area_size(LabelAreaPosition::Left, 72)
            .set_label_area_size(LabelAreaPosition::Bottom, 48);
        let (x, y) = (self.range_x(), self.range_y());
        if self.is_log {
            let marks = marks(&y);
            let chart = builder.build_cartesian_2d(x, y.log_scale().with_key_points(marks))?;
            self.draw_lines(chart)
        } else {
            self.draw_lines(builder.build_cartesian_2d(x, y)?)
        }
    }

    fn draw_lines<'a, 'b: 'a, Y>(
        &self,
        mut chart: ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, Y>>,
    ) -> Result<(), DrawingError>
    where
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let text = (FONT, 13).into_font().color(&INK);
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .axis_desc_style(text.clone())
            .label_style(text.clone())
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_label_formatter(&|x| shown(*x))
            .y_label_formatter(&|y| shown(*y))
            .draw()?;
        for (line, colour) in self.lines.iter().zip(COLOURS) {
            let points = line.points.iter().copied();
            let drawn =
                chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
            drawn.label(&line.name).legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
            });
            chart.draw_series(points.clone().map(|at| Circle::new(at, 3, colour.filled())))?;
            let words = points.zip(&line.words).map(|(at, word)| {
                let beside = Text::new(word.clone(), (7, -14), text.clone());
                EmptyElement::at(at) + beside
            });
            chart.draw_series(words)?;
        }
        if self.lines.len() > 1 {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .background_style(WHITE.mix(0.85))
                .border_style(GRID)
                .label_font(text)
                .draw()?;
        }
        Ok(())
    }

    fn range_x(&self) -> std::ops::Range<f64> {
        let (min, max) = bounds(self.lines.iter().flat_map(|line| &line.points).map(|p| p.0));
        if self.from_zero {
            return 0.0..(max * 1.05).max(1e-9);
        }
        let margin = ((max - min) * 0.08).max(max.abs() * 0.01).max(1e-9);
        min - margin..max + margin
    }

    fn range_y(&self) -> std::ops::Range<f64> {
        let (min, max) = bounds(self.lines.iter().flat_map(|line| &line.points).map(|p| p.1));
        if !self.is_log {
            return 0.0..(max * 1.15).max(1e-9);
        }
        // Room above for the names of the lines.
        let (min, room) = (min.max(1e-3), (2.0 * self.lines.len() as f64).max(4.0));
        min / 1.5..max.max(min) * room
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

type DrawingError = DrawingAreaErrorKind<std::io::Error>;

fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let wide = (f64::INFINITY, f64::NEG_INFINITY);
    let (min, max) = values.fold(wide, |(min, max), value| (min.min(value), max.max(value)));
    if min > max { (0.0, 1.0) } else { (min, max) }
}

/// Marks of a logarithmic axis: at 1, 2 and 5 of each power of ten, or at the powers alone if it spans many.
fn marks(range: &std::ops::Range<f64>) -> Vec<f64> {
    const POWERS_MAX: f64 = 3.5;
    let is_wide = (range.end / range.start).log10() > POWERS_MAX;
    let steps: &[f64] = if is_wide { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let exponents = range.start.log10().floor() as i32..=range.end.log10().ceil() as i32;
    let marks = exponents.flat_map(|exponent| steps.iter().map(move |s| s * 10_f64.powi(exponent)));
    marks.filter(|mark| range.contains(mark)).collect()
}

/// A number in its shortest form.
fn shown(value: f64) -> String {
    let text = match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[(f64, f64)], is_log: bool) -> Chart {
        let line = |name: &str| Line {
            name: name.into(),
            points: points.to_vec(),
            words: vec!["<ef>".into(); points.len()],
        };
        let lines = vec![line("p50"), line("p99")];
        let (x, y) = ("recall", "ms");
        Chart { name: "c", title: "Title".into(), x, y, is_log, from_zero: false, lines }
    }

    #[test]
    fn a_picture_has_its_lines_words_and_axes() {
        for is_log in [false, true] {
            let svg = chart(&[(0.9, 100.0), (0.99, 50.0)], is_log).draw().unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
            let thick = svg.lines().filter(|line| line.contains("stroke-width=\"2\""));
            assert_eq!(thick.count(), 2 * 2, "each line, and beside its name: {svg}");
            assert_eq!(svg.matches("<circle").count(), 4);
            for part in ["Title", "recall", "p99", "&lt;ef&gt;"] {
                assert!(svg.contains(part), "{part}: {svg}");
            }
        }
    }

    #[test]
    fn few_points_and_equal_ones_can_be_drawn() {
        for points in [&[][..], &[(1.0, 1.0)], &[(0.0, 0.0), (0.0, 0.0)]] {
            for is_log in [false, true] {
                chart(points, is_log).draw().unwrap();
            }
        }
    }

    #[test]
    fn an_axis_by_factors_has_marks_that_are_told_apart() {
        assert_eq!(marks(&(0.7..24.0)), [1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(marks(&(3.0..4.0)), [0.0; 0]);
        assert_eq!(marks(&(1.0..20_000.0)), [1.0, 10.0, 100.0, 1_000.0, 10_000.0]);
    }

    #[test]
    fn numbers_are_short() {
        let numbers = [0.0, 0.5, 0.985, 12.0, 12.5, 4059.3];
        assert_eq!(numbers.map(shown), ["0", "0.5", "0.985", "12", "12.5", "4059"]);
    }
}
