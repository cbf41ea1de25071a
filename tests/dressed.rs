//! Texts as people have them: rows in JSON, in records of loggers, in mail, on web pages and in terminals. Every dress is put
//! around rows of every printer, and what comes out is what the bare rows say; damaged, a row is read rightly, refused or
//! named.

use efibed::MemoryMap;
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

/// As a mail program encodes a line (RFC 2045): `=` and the blank at the end, and lines of 76 characters at the most.
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
