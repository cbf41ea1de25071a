//! Texts as people have them: rows in JSON, in records of loggers, in mail, on web pages and in terminals. Every dress is put
//! around rows of every printer, and what comes out is what the bare rows say; damaged, a row is read rightly, refused or
//! named.

use efibed::MemoryMap;
use efibed::Random;
use efibed::memory_map::{MemoryDescriptor, OddityKind, ReadError, ReadOptions, oddities};

/// Rows as their programs print them, and what they say: type, start, pages, attribute. By hand.
struct Sample {
    name: &'static str,
    rows: &'static [&'static str],
    says: &'static [(u32, u64, u64, u64)],
}

const RUNTIME: u64 = 1 << 63;

const SAMPLES: [Sample; 12] = [
    Sample {
        name: "linux-x86",
        rows: &[
            "efi: mem00: [Conventional|   |  |  |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[0x0000000000000000-0x0000000000086fff] (0MB)",
            "efi: mem01: [Runtime Data|RUN|  |  |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[0x0000000079400000-0x000000007951bfff] (1MB)",
            "efi: mem02: [Runtime Code|RUN|  |  |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[0x000000007951c000-0x0000000079520fff] (0MB)",
        ],
        says: &[(7, 0, 0x87, 0xf), (6, 0x7940_0000, 0x11c, RUNTIME | 0xf), (5, 0x7951_c000, 5, RUNTIME | 0xf)],
    },
    Sample {
        name: "linux-x86-old",
        rows: &[
            "efi: mem00: type=3, attr=0xf, range=[0x0000000000000000-0x0000000000001000) (0MB)",
            "efi: mem01: type=5, attr=0x800000000000000f, range=[0x0000000000001000-0x0000000000003000) (0MB)",
        ],
        says: &[(3, 0, 1, 0xf), (5, 0x1000, 2, RUNTIME | 0xf)],
    },
    Sample {
        name: "linux-arm64",
        rows: &[
            "efi:   0x000801f0c000-0x000803f7ffff [Conventional|   |  |  |  |  |  |  |  |  |   |WB|  |  |  ]",
            "efi:   0x010ff9e98000-0x010ff9f20fff [Runtime Data|RUN|  |  |  |  |  |  |  |  |   |WB|WT|WC|UC]",
        ],
        says: &[(7, 0x8_01f0_c000, 0x2074, 8), (6, 0x10f_f9e9_8000, 0x89, RUNTIME | 0xf)],
    },
    Sample {
        name: "linux-memattr",
        rows: &[
            "efi: memattr:  0x0000bfbc5000-0x0000bfbc8fff [Runtime Code|RUN|  |  |  |  |  |  |  |RO|   |  |  |  |  ]",
            "efi: memattr:  0x0000bfbc9000-0x0000bfbcafff [Runtime Code|RUN|  |  |  |  |XP|  |  |  |   |  |  |  |  ]",
        ],
        // A table alone tells regions, not how they may be cached.
        says: &[(5, 0xbfbc_5000, 4, RUNTIME | 8), (5, 0xbfbc_9000, 2, RUNTIME | 8)],
    },
    Sample {
        name: "linux-e820",
        rows: &[
            "efi: Not removing mem305: MMIO range=[0xfedc2000-0xfedc8fff] (28KB) from e820 map",
            "efi: Remove mem310: MMIO range=[0x3ffc00000000-0x3ffc03ffffff] (64MB) from e820 map",
        ],
        says: &[(11, 0xfedc_2000, 7, RUNTIME | 1), (11, 0x3ffc_0000_0000, 0x4000, RUNTIME | 1)],
    },
    Sample {
        name: "uefi-shell",
        rows: &[
            "RT_Data    000000008EA34000-000000008EF3DFFF 000000000000050A 800000000000000F",
            "Available  000000008EF3E000-000000008EF3EFFF 0000000000000001 000000000000000F",
        ],
        says: &[(6, 0x8ea3_4000, 0x50a, RUNTIME | 0xf), (7, 0x8ef3_e000, 1, 0xf)],
    },
    Sample {
        name: "grub",
        rows: &[
            "reserved  0000000000000000-0000000000000fff 00000001      4KiB WB",
            "RT-data   0000000007ef6000-0000000007f09fff 00000014     80KiB RT WB",
        ],
        says: &[(0, 0, 1, 8), (6, 0x7ef_6000, 0x14, RUNTIME | 8)],
    },
    Sample {
        name: "u-boot",
        rows: &[
            "BOOT DATA        0000000004000000-0000000004200000 WB",
            "RUNTIME DATA     0000000004200000-0000000004201000 WB|RT",
        ],
        says: &[(4, 0x400_0000, 0x200, 8), (6, 0x420_0000, 1, RUNTIME | 8)],
    },
    Sample {
        name: "xen",
        rows: &[
            "(XEN)  000007f28d000-000007f5f2fff type=6 attr=800000000000000f",
            "(XEN)  000007f5f3000-000007f5f3fff type=7 attr=000000000000000f",
        ],
        says: &[(6, 0x7f28_d000, 0x366, RUNTIME | 0xf), (7, 0x7f5f_3000, 1, 0xf)],
    },
    Sample {
        name: "freebsd",
        rows: &[
            "     ConventionalMemory 000000001000 000000001000 0000009f UC WC WT WB ",
            "    RuntimeServicesData 0000f6b27000 0000f6b27000 00000001 WB RUNTIME ",
        ],
        says: &[(7, 0x1000, 0x9f, 0xf), (6, 0xf6b2_7000, 1, RUNTIME | 8)],
    },
    Sample {
        name: "loader-csv",
        rows: &["3, A, EfiACPIMemoryNVS, 00800000, 8, F", "4, 7, EfiConventionalMemory, 00808000, 8, F"],
        says: &[(10, 0x80_0000, 8, 0xf), (7, 0x80_8000, 8, 0xf)],
    },
    Sample {
        name: "esx-boot",
        rows: &[
            "MMap[25]: 0x713d4000 - 0x71495fff len=794624, type=2, attr=0xf",
            "MMap[26]: 0x71496000 - 0x7149ffff len=40960, type=7, attr=0xf",
        ],
        says: &[(2, 0x713d_4000, 0xc2, 0xf), (7, 0x7149_6000, 0xa, 0xf)],
    },
];

/// Puts a dress around rows.
type Dress = fn(&[&str]) -> String;

const DRESSES: [(&str, Dress); 27] = [
    ("bare", |rows| lines(rows, |row| row.into())),
    ("blank-lines", |rows| lines(rows, |row| format!("{row}\n\n"))),
    ("json-array", |rows| {
        format!("[\n{}\n]\n", rows.iter().map(|row| format!("  {}", string(row))).collect::<Vec<_>>().join(",\n"))
    }),
    ("json-array-in-one-line", |rows| {
        format!(
            "{{\"machine\": \"x\", \"rows\": [{}]}}",
            rows.iter().map(|row| string(row)).collect::<Vec<_>>().join(", ")
        )
    }),
    ("json-string-of-lines", |rows| format!("{{ \"log\": {} }}\n", string(&rows.join("\n")))),
    ("quoted-strings", |rows| lines(rows, |row| format!("    '{row}',"))),
    ("docker-log", |rows| {
        lines(rows, |row| format!("{{\"log\":{},\"stream\":\"stdout\"}}", string(&format!("{row}\n"))))
    }),
    ("journalctl-json", |rows| {
        lines(rows, |row| {
            format!("{{\"_TRANSPORT\":\"kernel\",\"PRIORITY\":\"6\",\"MESSAGE\":{},\"_BOOT_ID\":\"0f\"}}", string(row))
        })
    }),
    ("journalctl-json-bytes", |rows| {
        lines(rows, |row| format!("{{\"PRIORITY\":\"6\",\"MESSAGE\":{:?}}}", row.as_bytes()))
    }),
    ("journalctl-json-pretty", |rows| {
        lines(rows, |row| format!("{{\n\t\"PRIORITY\" : \"6\",\n\t\"MESSAGE\" : {}\n}}", string(row)))
    }),
    ("journalctl-export", |rows| lines(rows, |row| format!("__CURSOR=s=1\nPRIORITY=6\nMESSAGE={row}\n"))),
    ("kmsg", |rows| lines(rows, |row| format!("6,123,0,-;{row}\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A08:00"))),
    ("netconsole", |rows| lines(rows, |row| format!("6.9.0,6,123,4711,-,caller=T0;{row}"))),
    ("ansi-colour", |rows| {
        lines(rows, |row| format!("\u{1b}[32m{}\u{1b}[33m{}\u{1b}[0m\u{1b}[K", &row[..4], &row[4..]))
    }),
    ("colour-without-escape", |rows| lines(rows, |row| format!("[1;32m{row}[0m"))),
    ("stray-byte-outside", |rows| lines(rows, |row| format!("caf\u{fffd}\n{row}"))),
    ("bbcode", |rows| format!("[quote=me][code]{}[/code][/quote]\n", rows.join("\n"))),
    ("html", |rows| format!("<div class=\"log\"><pre><code>{}</code></pre></div>\n", escaped(&rows.join("\n")))),
    ("html-in-one-line", |rows| {
        format!("<p>{}</p>\n", escaped(&rows.join("\0")).replace('\0', "<br />").replace(' ', "&nbsp;"))
    }),
    ("html-spans", |rows| {
        lines(rows, |row| {
            format!("<span style='color:#f00'>{}</span><b>{}</b>", escaped(&row[..4]), escaped(&row[4..]))
        })
    }),
    ("back-ticks", |rows| lines(rows, |row| format!("- `{row}`"))),
    ("fence", |rows| format!("```text\n{}\n```\n", rows.join("\n"))),
    ("note", |rows| lines(rows, |row| format!("{row}   <-- what is this?"))),
    ("comment", |rows| lines(rows, |row| format!("{row} # mine"))),
    ("quoted-mail-with-prose", |rows| lines(rows, |row| format!("> > {row}\nThat one is odd.\n> prose"))),
    ("twice", |rows| lines(rows, |row| format!("{row}\n{row}"))),
    ("quoted-printable", |rows| rows.iter().map(|row| quoted_printable(row)).collect()),
];

fn lines(rows: &[&str], dress: impl Fn(&str) -> String) -> String {
    rows.iter().map(|row| dress(row) + "\n").collect()
}

fn string(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('|', "\\u007c");
    format!("\"{escaped}\"")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// As a mail program encodes a line (RFC 2045): `=` and the blank at the end, and lines of 76 characters at most.
fn quoted_printable(line: &str) -> String {
    let encoded = line.trim_end().replace('=', "=3D");
    let (mut text, mut column) = (String::new(), 0);
    for (index, character) in encoded.char_indices() {
        let within_escape = encoded[..index].ends_with('=') || encoded[..index].ends_with("=3");
        if column >= 73 && !within_escape {
            text += "=\r\n";
            column = 0;
        }
        text.push(character);
        column += 1;
    }
    text + "\r\n"
}

fn read(text: &str, lenient: bool) -> Result<Vec<MemoryMap>, ReadError> {
    // What stands for a stray byte is one in the file: Latin-1.
    let bytes = text.split('\u{fffd}').map(str::as_bytes).collect::<Vec<_>>().join(&0xe9);
    MemoryMap::parse_bytes("text", bytes, &ReadOptions { lenient, ..ReadOptions::default() })
}

fn fields(descriptor: &MemoryDescriptor) -> (u32, u64, u64, u64) {
    (descriptor.ty.0, descriptor.phys_start, descriptor.page_count, descriptor.att.bits())
}

fn error(text: &str) -> String {
    read(text, false).unwrap_err().to_string()
}

fn notes(text: &str, lenient: bool) -> Vec<String> {
    let maps = read(text, lenient).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let of_text = |kind: OddityKind| matches!(kind, OddityKind::Repaired | OddityKind::SkippedLine);
    oddities(&maps[0]).into_iter().filter(|oddity| of_text(oddity.kind)).map(|oddity| oddity.message).collect()
}

#[test]
fn every_printers_rows_are_read_in_every_dress() {
    let mut wrong = Vec::new();
    for sample in &SAMPLES {
        for (dress, put) in DRESSES {
            let text = put(sample.rows);
            for lenient in [false, true] {
                let read = read(&text, lenient).map(|maps| {
                    maps.iter().map(|map| map.descriptors().iter().map(fields).collect()).collect::<Vec<Vec<_>>>()
                });
                if !read.as_ref().is_ok_and(|lists| lists.as_slice() == [sample.says]) {
                    wrong.push(format!("{} in {dress} (lenient: {lenient}): {read:?}\n{text}", sample.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn rows_that_a_mail_program_wrapped_are_joined() {
    for sample in &SAMPLES {
        for quote in ["", "> "] {
            // At the last blank before the width, and the rest with or without the mark of a quotation.
            for (width, rest) in [(76, quote), (72, ""), (64, quote)] {
                let text = lines(sample.rows, |row| wrapped(row, width, quote, rest));
                let maps = read(&text, false).unwrap_or_else(|error| panic!("{error}\n{text}"));
                let says: Vec<_> = maps.iter().flat_map(MemoryMap::descriptors).map(fields).collect();
                assert_eq!(says, sample.says, "{}\n{text}", sample.name);
            }
        }
    }
    let x86 = SAMPLES[0].rows.iter().map(|row| wrapped(row, 76, "", "")).collect::<Vec<_>>().join("\n");
    assert_eq!(notes(&x86, false), ["line 1, column 1: the row was wrapped; its lines are joined, and 2 more times"]);
}

/// A row in lines of so many characters at most, as far as its blanks allow.
fn wrapped(row: &str, width: usize, quote: &str, rest: &str) -> String {
    let mut line = quote.to_owned() + row.trim_end();
    let mut text = String::new();
    while line.len() > width {
        let first = line.len() - line.trim_start_matches(['>', ' ']).len();
        let Some(blank) = line[..width].rfind(' ').filter(|blank| *blank > first) else { break };
        text += &format!("{}\n", &line[..blank]);
        line = format!("{rest}{}", &line[blank + 1..]);
    }
    text + &line
}

#[test]
fn rows_whose_rest_cannot_be_told_are_refused() {
    const WRAPPED: &str =
        "this text was wrapped by a mail program: how the row goes on in the next line cannot be told";
    let x86 = SAMPLES[0].rows;
    let lost = format!("{}\n> {}\nhow odd\n{}", x86[0], &x86[1][..66], x86[2]);
    assert_eq!(error(&lost), format!("text:2:3: {WRAPPED}"));
    assert_eq!(notes(&lost, true)[0], format!("line 2, column 3 is skipped: {WRAPPED}"));
    assert_eq!(read(&lost, true).unwrap()[0].descriptors().len(), 2);
    // Sound as it is, and sound with the next line.
    let either = format!("{}\n00\n", SAMPLES[11].rows[0]);
    assert_eq!(error(&either), format!("text:1:1: {WRAPPED}"));
}

#[test]
fn errors_point_into_the_original() {
    let x86 = SAMPLES[0].rows;
    let damaged = x86[1].replace("[0x0000000079400000", "[0x000000007940000o");
    let message = "the start address has `o` among its hexadecimal digits";
    let column = damaged.find('o').unwrap() + damaged[damaged.find('o').unwrap()..].find("o-").unwrap() + 1;
    let at = |line: usize, before: &str| format!("text:{line}:{}: {message}", before.chars().count() + column);
    let text = |dress: &dyn Fn(&str) -> String| lines(&[x86[0], &damaged, x86[2]], dress);
    let quoted = |row: &str| format!("  \"{row}\",");
    assert_eq!(error(&text(&quoted)), at(2, "  \""));
    let kmsg = |row: &str| format!("6,123,0,-;{row}\n SUBSYSTEM=x");
    assert_eq!(error(&text(&kmsg)), at(3, "6,123,0,-;"));
    let colour = |row: &str| format!("\u{1b}[32m{}\u{1b}[0m{}", &row[..4], &row[4..]);
    assert_eq!(error(&text(&colour)), at(2, "\u{1b}[32m\u{1b}[0m"));
    // Of three lines in one, the second.
    let one_line = format!("[{}]", string(&[x86[0], &damaged, x86[2]].join("\n")));
    let shown = error(&one_line);
    let place = one_line.find("o-").unwrap() + 1;
    assert_eq!(shown, format!("text:1:{place}: {message}"));
    assert!(notes(&one_line, true).contains(&format!("line 1, column {place} is skipped: {message}")));
    // The line of each descriptor.
    let maps = read(&lines(x86, kmsg), false).unwrap();
    assert_eq!([0, 1, 2].map(|index| maps[0].line(index)), [Some(1), Some(3), Some(5)]);
    let encoded: String = x86.iter().map(|row| quoted_printable(row)).collect();
    assert_eq!([0, 1, 2].map(|index| read(&encoded, false).unwrap()[0].line(index)), [Some(1), Some(3), Some(5)]);
}

#[test]
fn a_stray_byte_is_harmless_outside_of_rows_only() {
    let arm = SAMPLES[2].rows;
    let outside = format!("caf\u{fffd}\n{}\n{}", arm[0], arm[1]);
    assert_eq!(notes(&outside, false), ["line 1, column 4: a byte that is not UTF-8 is here, outside of every row"]);
    for place in [0, 7, 20, 45, arm[0].len() - 1] {
        let row = format!("{}\u{fffd}{}", &arm[0][..place], &arm[0][place + 1..]);
        let text = format!("{}\n{row}\n", arm[1]);
        let error = error(&text);
        assert!(error.starts_with(&format!("text:2:{}: ", place + 1)), "{error}\n{text}");
        let maps = read(&text, true).unwrap();
        assert_eq!(maps[0].descriptors().iter().map(fields).collect::<Vec<_>>(), SAMPLES[2].says[1..], "{text}");
        assert_eq!(notes(&text, true).len(), 1);
    }
    // Descriptors are no text, whatever their bytes are.
    let map = read(&lines(SAMPLES[5].rows, str::to_owned), false).unwrap().remove(0);
    let bytes = efibed::memory_map::write(&map, efibed::memory_map::WriteFormat::Binary, &Default::default()).unwrap();
    assert!(str::from_utf8(&bytes).is_err());
    let again = MemoryMap::parse_bytes("dump", bytes, &ReadOptions::default()).unwrap();
    assert_eq!(again[0].format().map(|format| format.name()), Some("binary"));
}

#[test]
fn copies_are_told_from_regions_that_are_there_twice() {
    let [one, two] = [SAMPLES[6].rows[0], SAMPLES[6].rows[1]];
    let count = |text: &str| read(text, false).unwrap()[0].descriptors().len();
    assert_eq!(count(&format!("{one}\n{one}\n{two}\n")), 3);
    let twice = format!("{one}\n{one}\n{two}\n{two}\n");
    assert_eq!(count(&twice), 2);
    let message = "each row is there twice in succession from here on, as where two consoles log: it is read once";
    assert_eq!(notes(&twice, false), [format!("line 1, column 1: {message}")]);
    // One copy of four is damaged, and nobody can tell which of the two is right.
    let three = "conv-mem  0000000007f0a000-0000000007f0afff 00000001      4KiB WB";
    let other = three.replace("conv-mem", "reserved");
    let damaged = format!("{twice}{three}\n{other}\n");
    assert!(error(&damaged).starts_with("text:5:1: each row is there twice, but not this one"));
    assert_eq!(read(&damaged, true).unwrap()[0].descriptors().len(), 2);
    assert_eq!(notes(&damaged, true).len(), 3);
}

#[test]
fn a_row_behind_unknown_text_is_named() {
    let rows = SAMPLES[2].rows;
    let text = format!("{}\nsomebody: {}\n", rows[0], rows[1]);
    let note = "line 2, column 18 is skipped: it reads as a row, but something unknown is before it";
    assert_eq!(notes(&text, false), [note]);
}

/// Damage of one or two characters anywhere, 500 times for each dress: no panic; and a row that is read is a right
/// one, unless the damage is in its own characters and leaves it sound, as it would without a dress. Where all rows are
/// whole, each is read, or it is told that one is not.
#[test]
fn no_damage_is_misread() {
    let mut problems = Vec::new();
    for (index, (dress, put)) in DRESSES.iter().enumerate() {
        let mut random = Random::new(2013 + index as u64);
        for run in 0..500 {
            let sample = &SAMPLES[random.index(SAMPLES.len())];
            let text = put(sample.rows);
            let mut damaged: Vec<char> = text.chars().collect();
            let is_cut = (0..1 + random.index(2)).fold(false, |is_cut, _| damage(&mut damaged, &mut random) | is_cut);
            let damaged: String = damaged.into_iter().collect();
            let problem = misread(sample, dress, &damaged, is_cut, run % 2 == 1);
            if let Some(problem) = problem {
                problems.push(format!("{} in {dress}, run {run}: {problem}\n{damaged:?}", sample.name));
            }
        }
    }
    assert!(problems.is_empty(), "{}\n{}", problems.len(), problems.join("\n"));
}

/// Damages a text, and says whether its end was cut off.
fn damage(text: &mut Vec<char>, random: &mut Random) -> bool {
    const OTHERS: [char; 14] = ['"', '\\', '<', '>', '`', '=', ';', '\u{1b}', '\n', '[', ' ', '\u{fffd}', '0', 'x'];
    let at = random.index(text.len());
    let way = random.index(4);
    match way {
        0 => drop(text.remove(at)),
        1 => text.insert(at, OTHERS[random.index(OTHERS.len())]),
        2 => text.truncate(at.max(1)),
        _ => text[at] = OTHERS[random.index(OTHERS.len())],
    }
    way == 2
}

/// What is wrong with how a damaged text was read.
fn misread(sample: &Sample, dress: &str, damaged: &str, is_cut: bool, lenient: bool) -> Option<String> {
    let maps = read(damaged, lenient).ok()?;
    let is_told = maps.iter().any(|map| oddities(map).iter().any(|oddity| oddity.kind.is_of_map()));
    let read: Vec<_> = maps.iter().flat_map(MemoryMap::descriptors).map(fields).collect();
    // One copy is whole where the other is damaged.
    let is_whole = dress != "twice" && sample.rows.iter().all(|row| is_in(row, damaged));
    let wrong = read.iter().find(|row| !sample.says.contains(row) && (is_whole || !is_near(row, sample)));
    match wrong {
        Some(row) => Some(format!("{row:x?} is no row of the text")),
        // Of two rows, one of them damaged, nobody can tell that they were printed twice.
        None if read.len() > sample.says.len() && !(dress == "twice" && sample.says.len() == 2) => {
            Some(format!("{} rows were read", read.len()))
        }
        // What is cut off is not missed by anyone; of what makes a row one, its reader knows.
        None if read.len() < sample.says.len() && is_whole && !is_told && !is_cut => {
            Some("a row is lost, and not told".into())
        }
        None => None,
    }
}

/// Whether a row is in a text, dressed as one piece, and not as a comment.
fn is_in(row: &str, text: &str) -> bool {
    [row.to_owned(), string(row), escaped(row), escaped(row).replace(' ', "&nbsp;")]
        .iter()
        .any(|row| text.split_once(row.as_str()).is_some_and(|(before, _)| !before.ends_with(';')))
}

/// Whether a row is one of a sample's except for its type, its attributes, or one end: what a wrong digit or a lost word makes
/// of a row, dressed or bare, and nothing can tell.
fn is_near(row: &(u32, u64, u64, u64), sample: &Sample) -> bool {
    let end = |row: &(u32, u64, u64, u64)| row.1.wrapping_add(row.2.wrapping_mul(4096));
    sample.says.iter().any(|said| {
        let is_elsewhere = row.1 != said.1 && row.2 != said.2 && end(row) != end(said);
        u8::from(row.0 != said.0) + u8::from(row.3 != said.3) + u8::from(is_elsewhere) <= 1
    })
}
