//! A line chart, drawn the same to SVG and PNG. Small and without system fonts, so that it runs anywhere.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::geometry::{OriginDimensions, Point, Size};
use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::ascii::FONT_9X15;
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{Line, PrimitiveStyle};
use embedded_graphics::text::{Alignment, Text};

/// The size of one chart, in pixels.
pub(crate) const WIDTH: i32 = 960;
pub(crate) const HEIGHT: i32 = 420;
const LEFT: i32 = 70;
const RIGHT: i32 = 190;
const TOP: i32 = 40;
const BOTTOM: i32 = 50;

/// One curve.
pub(crate) struct Series {
    pub(crate) label: String,
    pub(crate) colour: Rgb888,
    /// Ascending in x.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Curves over one pair of axes that begin at zero.
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x_label: &'static str,
    pub(crate) y_label: &'static str,
    pub(crate) series: Vec<Series>,
}

/// What a drawing is made of.
enum Mark {
    Line((i32, i32), (i32, i32), Rgb888, u32),
    Text((i32, i32), String, Rgb888, Alignment),
}

const BLACK: Rgb888 = Rgb888::new(30, 30, 30);
const GREY: Rgb888 = Rgb888::new(220, 220, 220);

/// A round number such that about five of them cover `span`.
fn step(span: f64) -> f64 {
    let rough = (span / 5.0).max(1e-9);
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|times| times * power)
        .find(|step| *step >= rough)
        .unwrap_or(rough)
}

impl Chart {
    fn marks(&self) -> Vec<Mark> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max).max(1e-9);
        let x_max = largest(&mut points().map(|point| point.0));
        let y_max = largest(&mut points().map(|point| point.1)) * 1.02;
        #[expect(clippy::cast_possible_truncation, reason = "a place on the chart")]
        let place = |x: f64, y: f64| {
            let across = x / x_max * f64::from(WIDTH - LEFT - RIGHT);
            let up = y / y_max * f64::from(HEIGHT - TOP - BOTTOM);
            (LEFT + across as i32, HEIGHT - BOTTOM - up as i32)
        };
        let mut marks = vec![
            Mark::Text((LEFT, 22), self.title.clone(), BLACK, Alignment::Left),
            Mark::Text((6, TOP - 4), self.y_label.into(), BLACK, Alignment::Left),
            Mark::Text(
                (WIDTH - RIGHT, HEIGHT - 10),
                self.x_label.into(),
                BLACK,
                Alignment::Right,
            ),
        ];
        for (vertical, max) in [(false, y_max), (true, x_max)] {
            let step = step(max);
            let mut value = 0.0;
            while value <= max {
                let (x, y) = if vertical {
                    place(value, 0.0)
                } else {
                    place(0.0, value)
                };
                let label = format!("{}", (value * 1000.0).round() / 1000.0);
                if vertical {
                    marks.push(Mark::Line((x, y), (x, TOP), GREY, 1));
                    marks.push(Mark::Text((x, y + 18), label, BLACK, Alignment::Center));
                } else {
                    marks.push(Mark::Line((x, y), (WIDTH - RIGHT, y), GREY, 1));
                    marks.push(Mark::Text((x - 6, y + 5), label, BLACK, Alignment::Right));
                }
                value += step;
            }
        }
        for (row, series) in (0_i32..).zip(&self.series) {
            let mut last = None;
            for &(x, y) in &series.points {
                let here = place(x, y);
                if let Some(before) = last.filter(|before| *before != here) {
                    marks.push(Mark::Line(before, here, series.colour, 2));
                }
                last = Some(here);
            }
            let y = TOP + 10 + row * 22;
            let x = WIDTH - RIGHT + 12;
            marks.push(Mark::Line((x, y), (x + 20, y), series.colour, 3));
            marks.push(Mark::Text(
                (x + 26, y + 5),
                series.label.clone(),
                BLACK,
                Alignment::Left,
            ));
        }
        marks
    }
}

fn css(colour: Rgb888) -> String {
    format!("rgb({},{},{})", colour.r(), colour.g(), colour.b())
}

/// Writes charts, one above the other, as SVG.
pub(crate) fn write_svg(charts: &[Chart], path: &Path) -> io::Result<()> {
    let height = HEIGHT * i32::try_from(charts.len()).unwrap_or(1);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"monospace\" font-size=\"14\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (row, chart) in (0_i32..).zip(charts) {
        let _ = writeln!(svg, "<g transform=\"translate(0,{})\">", row * HEIGHT);
        for mark in chart.marks() {
            let _ = match mark {
                Mark::Line((x1, y1), (x2, y2), colour, width) => writeln!(
                    svg,
                    "<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" stroke=\"{}\" stroke-width=\"{width}\"/>",
                    css(colour)
                ),
                Mark::Text((x, y), text, colour, alignment) => {
                    let anchor = match alignment {
                        Alignment::Left => "start",
                        Alignment::Center => "middle",
                        Alignment::Right => "end",
                    };
                    writeln!(
                        svg,
                        "<text x=\"{x}\" y=\"{y}\" fill=\"{}\" text-anchor=\"{anchor}\">{text}</text>",
                        css(colour)
                    )
                }
            };
        }
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    std::fs::write(path, svg)
}

/// Pixels to draw on, three bytes each.
struct Picture {
    width: u32,
    height: u32,
    bytes: Vec<u8>,
}

impl OriginDimensions for Picture {
    fn size(&self) -> Size {
        Size::new(self.width, self.height)
    }
}

impl DrawTarget for Picture {
    type Color = Rgb888;
    type Error = std::convert::Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(
        &mut self,
        pixels: I,
    ) -> Result<(), Self::Error> {
        for Pixel(Point { x, y }, colour) in pixels {
            let place = (u32::try_from(x), u32::try_from(y));
            if let (Ok(x), Ok(y)) = place
                && x < self.width
                && y < self.height
            {
                let at = (y as usize * self.width as usize + x as usize) * 3;
                self.bytes[at..at + 3].copy_from_slice(&[colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}

/// Writes charts, one above the other, as PNG.
pub(crate) fn write_png(charts: &[Chart], path: &Path) -> io::Result<()> {
    let rows = u32::try_from(charts.len()).unwrap_or(1);
    let (width, height) = (WIDTH.unsigned_abs(), HEIGHT.unsigned_abs() * rows);
    let mut picture = Picture {
        width,
        height,
        bytes: vec![255; width as usize * height as usize * 3],
    };
    for (row, chart) in (0_i32..).zip(charts) {
        let moved = |(x, y): (i32, i32)| Point::new(x, y + row * HEIGHT);
        for mark in chart.marks() {
            let Ok(()) = match mark {
                Mark::Line(from, to, colour, width) => Line::new(moved(from), moved(to))
                    .into_styled(PrimitiveStyle::with_stroke(colour, width))
                    .draw(&mut picture),
                Mark::Text(at, text, colour, alignment) => {
                    let style = MonoTextStyle::new(&FONT_9X15, colour);
                    Text::with_alignment(&text, moved(at), style, alignment)
                        .draw(&mut picture)
                        .map(|_| ())
                }
            };
        }
    }
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&picture.bytes)?;
    writer.finish()?;
    std::fs::write(path, file)
}
