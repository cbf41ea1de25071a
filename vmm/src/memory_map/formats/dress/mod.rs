//! How a text is dressed around its rows: as strings of JSON, as records of a logger, as a web page, as mail.
//!
//! A text is undressed before its rows are read. What is left is again a text, of which every place knows where it was
//! in the original ([`Strand`]): errors and notes point there, and the readers of rows need not know. A text that is
//! not dressed stays as it is.
//!
//! Undressing is blind to what rows say, with three exceptions, for which `rows` asks the readers: lines that a mail
//! program broke are joined where that is unambiguous, rows that are printed twice each are read once, and a stray
//! byte in a row is no row. What it cannot make out there is refused, or skipped with a note; it invents nothing.

mod json_strings;
mod markup;
mod quoted_printable;
mod rows;
mod strand;

pub(super) use rows::settle;
pub(super) use strand::Strand;

use super::diff;
use strand::{Edit, in_lines};

/// How often dresses are taken off: one may be under another, as HTML in the strings of JSON.
const LAYERS: usize = 2;

type Dress = fn(&str, &mut Vec<Edit>);

/// The dresses of lines, from the outside in: around a quotation, and in it.
const OUTER: [Dress; 2] = [markup::kmsg, markup::journal_field];
const INNER: [Dress; 6] =
    [json_strings::undress, markup::escapes, markup::html, markup::bbcode, markup::arrow, markup::markdown];

/// Takes off what is around the lines of a text.
pub(super) fn undress(text: &str) -> Strand<'_> {
    let mut strand = Strand::new(text);
    let edits = quoted_printable::decode(text);
    strand.edit(edits);
    for _ in 0..LAYERS {
        let mut is_dressed = false;
        // What quotes in mail is a sign in a diff of the old kind, and its reader is to see it.
        let quoting = (!diff::has_classic_hunk(strand.text())).then_some(markup::quoting as Dress);
        for dress in OUTER.into_iter().chain(quoting).chain(INNER) {
            let edits = in_lines(strand.text(), dress);
            is_dressed |= strand.edit(edits);
        }
        if !is_dressed {
            break;
        }
    }
    strand
}
