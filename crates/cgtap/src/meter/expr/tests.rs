//! Expressions, without a kernel.

use proptest::prelude::*;

use super::*;
use crate::hook::scope::Path;

/// Fields of many types in sixty-four bytes, and a text behind them.
pub struct Fields;

/// Name, first byte, size, sign.
pub const NUMBERS: &[(&str, i16, u8, bool)] = &[
    ("a", 0, 1, true),
    ("b", 1, 1, false),
    ("c", 2, 2, true),
    ("d", 4, 4, false),
    ("e", 8, 4, true),
    ("f", 12, 2, false),
    ("g", 16, 8, true),
    ("h", 24, 8, false),
];
/// First byte and size of the text `text`.
pub const TEXT: (i16, u8) = (32, 8);

impl Names for Fields {
    fn find(&self, path: &Path) -> Result<Found, String> {
        if path.argument() == "text" {
            return Ok(Found::Text(TextLoad::Context {
                offset: TEXT.0,
                bytes: TEXT.1,
            }));
        }
        let found = NUMBERS.iter().find(|(name, ..)| *name == path.argument());
        let (_, offset, bytes, signed) =
            found.ok_or_else(|| format!("there is no {}", path.argument()))?;
        Ok(Found::Number {
            load: Load::Context {
                offset: *offset,
                bytes: *bytes,
                signed: *signed,
            },
            fits_signed: *signed || *bytes < 8,
            signed: *signed,
            shown: Shown::Unsigned,
        })
    }

    fn noted(&self) -> &[String] {
        &[]
    }

    fn is_paired(&self) -> bool {
        false
    }
}

/// An event with those fields.
#[derive(Clone, Copy, Debug)]
pub struct Event(pub [u8; 64]);

impl Record for Event {
    fn number(&self, load: &Load) -> u64 {
        let Load::Context {
            offset,
            bytes,
            signed,
        } = load
        else {
            return 0;
        };
        let (at, bytes) = (*offset as usize, *bytes as usize);
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(&self.0[at..at + bytes]);
        super::node::cast(bytes as u8 * 8, *signed, u64::from_ne_bytes(word))
    }

    fn text(&self, load: &TextLoad) -> Vec<u8> {
        let TextLoad::Context { offset, bytes } = load else {
            return Vec::new();
        };
        let at = *offset as usize;
        let text = &self.0[at..at + *bytes as usize];
        text.iter().copied().take_while(|b| *b != 0).collect()
    }

    fn noted(&self, _: u8) -> u64 {
        0
    }

    fn builtin(&self, _: Builtin) -> u64 {
        0
    }
}

/// Events, with many of the numbers that things go wrong at.
pub fn event() -> impl Strategy<Value = Event> {
    let byte = prop_oneof![
        3 => any::<u8>(),
        1 => Just(0u8),
        1 => Just(0xffu8),
        1 => Just(0x80u8),
    ];
    let text = prop_oneof![
        Just("R"),
        Just("RA"),
        Just("WS"),
        Just(""),
        Just("dd"),
        Just("a long text")
    ];
    (prop::collection::vec(byte, 32), text).prop_map(|(numbers, text)| {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&numbers);
        let (at, room) = (TEXT.0 as usize, TEXT.1 as usize);
        // As the kernel has it: ends with a NUL, and old bytes behind it.
        bytes[at..at + room].fill(b'x');
        let length = text.len().min(room - 1);
        bytes[at..at + length].copy_from_slice(&text.as_bytes()[..length]);
        bytes[at + length] = 0;
        Event(bytes)
    })
}

/// Expressions of those fields, as text.
pub fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        6 => prop::sample::select(NUMBERS).prop_map(|(name, ..)| name.to_owned()),
        2 => any::<u8>().prop_map(|n| n.to_string()),
        1 => any::<u64>().prop_map(|n| format!("{n:#x}")),
        1 => prop::sample::select(vec![
            r#"text == "R""#, r#"text != "RA""#, r#"text =~ "R*""#, r#""dd" == text"#,
            r#"text =~ "*""#, r#"text == """#, r#"text == "more than it has room for""#,
        ]).prop_map(|t| format!("({t})")),
        1 => prop::sample::select(vec!["0", "1", "64K", "'R'", "0x80000000", "0x7fffffff"])
            .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let op = prop::sample::select(vec![
            "+", "-", "*", "&", "|", "^", "<<", ">>", "==", "!=", "<", "<=", ">", ">=", "&&", "||",
        ]);
        prop_oneof![
            6 => (inner.clone(), op, inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            2 => (inner.clone(), prop::sample::select(vec!["/", "%"]), inner.clone())
                .prop_map(|(a, op, b)| format!("(u64({a}) {op} u64({b}))")),
            1 => inner.clone().prop_map(|a| format!("!{a}")),
            1 => inner.clone().prop_map(|a| format!("-{a}")),
            1 => inner.clone().prop_map(|a| format!("~{a}")),
            1 => (prop::sample::select(vec!["i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64"]), inner.clone())
                .prop_map(|(t, a)| format!("{t}({a})")),
            1 => (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
        ]
    })
}

fn evaluate(text: &str, event: &Event) -> u64 {
    let ast = Parser::whole(text).unwrap_or_else(|e| panic!("{e}"));
    check_number(text, &ast, &Fields)
        .unwrap_or_else(|e| panic!("{e}"))
        .evaluate(event)
}

proptest! {
    /// No text makes it panic, and errors point into it.
    #[test]
    fn any_text_is_read_or_refused(text in "[a-h0-9()+*/<>=&|!~?:'\" .,xKM-]{0,40}|\\PC{0,20}") {
        match Parser::whole(&text) {
            Ok(ast) => { let _ = check_number(&text, &ast, &Fields).map_err(|e| e.to_string()); }
            Err(e) => prop_assert!(e.at <= text.len() && !e.to_string().is_empty()),
        }
    }

    /// What is computed before is what would have been computed at the event.
    #[test]
    fn folding_changes_no_value(node in node(), event in event()) {
        let folded = node.clone().fold();
        prop_assert_eq!(folded.evaluate(&event), node.evaluate(&event), "{:?}", folded);
    }
}

fn node() -> impl Strategy<Value = Node> {
    const OPS: &[Op] = &[
        Op::Add,
        Op::Sub,
        Op::Mul,
        Op::Div,
        Op::Mod,
        Op::And,
        Op::Or,
        Op::Xor,
        Op::Shl,
        Op::Shr,
        Op::ShrSigned,
        Op::Eq,
        Op::Ne,
        Op::Lt,
        Op::Le,
        Op::Gt,
        Op::Ge,
        Op::LtSigned,
        Op::LeSigned,
        Op::GtSigned,
        Op::GeSigned,
    ];
    let load = prop::sample::select(NUMBERS).prop_map(|(_, offset, bytes, signed)| {
        Node::Load(Load::Context {
            offset,
            bytes,
            signed,
        })
    });
    let constant = prop_oneof![
        Just(0),
        Just(1),
        Just(2),
        Just(64),
        Just(u64::MAX),
        any::<u64>()
    ];
    let leaf = prop_oneof![load, constant.prop_map(Node::Constant)];
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            4 => (prop::sample::select(OPS), inner.clone(), inner.clone())
                .prop_map(|(op, a, b)| Node::Binary(op, a.into(), b.into())),
            1 => inner.clone().prop_map(|a| Node::Not(a.into())),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| Node::And(a.into(), b.into())),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| Node::Or(a.into(), b.into())),
            1 => (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| Node::Choose(a.into(), b.into(), c.into())),
            1 => (prop::sample::select(vec![8u8, 16, 32, 64]), any::<bool>(), inner)
                .prop_map(|(bits, signed, a)| Node::Cast(bits, signed, a.into())),
        ]
    })
}

#[test]
fn values_are_those_of_arithmetic() {
    let mut event = Event([0; 64]);
    event.0[0] = 0xff; // a = -1
    event.0[1] = 0xff; // b = 255
    event.0[8..12].copy_from_slice(&(-5i32).to_ne_bytes()); // e
    event.0[24..32].copy_from_slice(&10u64.to_ne_bytes()); // h
    event.0[32..35].copy_from_slice(b"RA\0");
    for (text, value) in [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("1 << 4 | 1", 17),
        // & binds stronger than ==.
        ("b & 1 == 1", 1),
        ("a < b", 1),
        ("a < 0", 1),
        ("e < 0 && e > -6", 1),
        ("b == 255", 1),
        ("u8(a) == b", 1),
        ("u64(a) > h", 1),
        ("e >> 1", (-3i64).cast_unsigned()),
        ("h / 3", 3),
        ("h % 3", 1),
        ("h / 0", 0),
        ("h % 0", 10),
        ("-1", u64::MAX),
        ("~0", u64::MAX),
        ("!h", 0),
        ("!!h", 1),
        ("h ? 5 : 6", 5),
        ("a == 0 ? 1 : b == 255 ? 2 : 3", 2),
        ("64K", 65_536),
        ("0x10", 16),
        ("'R'", 82),
        (r#"text == "RA""#, 1),
        (r#"text == "R""#, 0),
        (r#"text =~ "R*""#, 1),
        (r#"text != "W""#, 1),
    ] {
        assert_eq!(evaluate(text, &event), value, "{text}");
    }
}

#[test]
fn a_mistake_is_shown_where_it_stands() {
    let refused = |text: &str| {
        let whole = Parser::whole(text).and_then(|ast| check_number(text, &ast, &Fields));
        whole.expect_err(text)
    };
    for (text, at, why) in [
        ("", 0, "a value is missing"),
        ("h +", 3, "a value is missing"),
        ("(h", 2, "`)` is missing"),
        ("h h", 2, "an operator is missing before `h`"),
        ("h + zz", 4, "there is no zz"),
        ("h = 3", 2, "an operator is missing before `= 3`"),
        ("1x", 0, "is no number"),
        ("99999999999999999999", 0, "is no number"),
        ("20000000T", 0, "more than 64 bits"),
        ("\"abc", 0, "closing \" is missing"),
        ("'ab'", 0, "one character"),
        ("h->", 3, "name of a member is missing"),
        ("h ? 1", 5, "`:` is missing"),
        ("text", 0, "is a text"),
        ("text == h", 0, "is a text"),
        ("h == \"x\"", 0, "is a number"),
        ("text < \"x\"", 0, "==, != and =~ only"),
        ("text =~ \"x\"", 8, "begins"),
        ("text =~ h", 8, "text in quotes"),
        ("\"x\"", 0, "a text is no number"),
        ("a / 2", 0, "signed numbers are not divided"),
        ("elapsed", 0, "since which"),
        ("sum(h)", 0, "is no function"),
        ("h + $", 4, "begins no value"),
        ("h - != 2", 4, "a value is missing"),
    ] {
        let error = refused(text);
        assert!(error.why.contains(why), "{text}: {error}");
        assert_eq!(error.at, at, "{text}: {error}");
    }
    let shown = refused("h + zz").to_string();
    assert_eq!(shown, "there is no zz\n  h + zz\n      ^");
}

#[test]
fn a_number_that_is_a_device_is_shown_as_one() {
    let label = |text: &str| {
        let ast = Parser::whole(text).unwrap();
        super::check_label(text, &ast, &Fields, None).unwrap()
    };
    let device = Label::Number(Node::Constant(0x10_0005), Shown::Device);
    assert_eq!(label("dev_t(1 << 20 | 5)"), device);
    // It has 32 bits, and is a number like any other where it is no label.
    let cut = label("dev_t(0x100100005)");
    assert_eq!(cut, device);
    let sum = Label::Number(Node::Constant(0x10_0006), Shown::Unsigned);
    assert_eq!(label("dev_t(1 << 20 | 5) + 1"), sum);
}

#[test]
fn too_deep_is_refused_and_not_an_overflow() {
    let deep = "(".repeat(100_000);
    assert!(
        Parser::whole(&deep)
            .unwrap_err()
            .why
            .contains("in each other")
    );
    let deep = "!".repeat(100_000);
    assert!(Parser::whole(&deep).is_err());
    let long = vec!["1"; 1_000].join(" + ");
    assert!(Parser::whole(&long).unwrap_err().why.contains("in a row"));
}

#[test]
fn labels_are_numbers_texts_or_chosen_words() {
    let label = |text: &str, elsewhere: Option<Shown>| {
        let ast = Parser::whole(text).unwrap();
        check_label(text, &ast, &Fields, elsewhere.as_ref())
    };
    let words = |w: &[&str]| w.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let chosen = label(r#"b == 0 ? "read" : b == 1 ? "write" : "read""#, None).unwrap();
    let Label::Number(node, Shown::Names(names)) = chosen else {
        panic!("{chosen:?}");
    };
    assert_eq!(names, words(&["read", "write"]));
    let mut event = Event([0; 64]);
    event.0[1] = 1;
    assert_eq!(node.evaluate(&event), 1);
    // Words that are known from elsewhere keep their numbers.
    let Ok(Label::Number(node, Shown::Names(names))) =
        label(r#""write""#, Some(Shown::Names(words(&["read", "write"]))))
    else {
        panic!();
    };
    assert_eq!((node, names.len()), (Node::Constant(1), 2));
    assert!(matches!(label("text", None), Ok(Label::Text(_))));
    // A text beside those that an event carries.
    let fixed = label(r#""none""#, Some(Shown::Text)).unwrap();
    let Label::Text(TextLoad::Fixed([word, 0])) = fixed else {
        panic!("{fixed:?}");
    };
    assert_eq!(&word.to_ne_bytes(), b"none\0\0\0\0");
    let mixed = label(r#"b ? "x" : 1"#, None).unwrap_err();
    assert!(mixed.why.contains("has to be one too"), "{mixed}");
}
