use std::time::{Duration, Instant};

use cgtap::engine::LimitReport;
use cgtap::limit::record::Action;
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::*;
use crate::top::arrange::Order;
use crate::top::testing::{limit, many, model, report, row, tenants};

const LOOK: Look = Look {
    colour: true,
    unicode: true,
    width: None,
};

fn draw_on(size: (u16, u16), view: &mut View, model: &Model, look: &Look) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    let drawn = terminal.draw(|frame| draw(frame, view, model, look, "14:02:31 UTC"));
    drawn.unwrap();
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width);
    let mut text = String::new();
    for line in buffer.content.chunks(width.max(1)) {
        let cells: String = line.iter().map(|cell| cell.symbol()).collect();
        text += cells.trim_end();
        text.push('\n');
    }
    text
}

fn view(model: &Model) -> View {
    let mut view = View::new(Order::default(), Duration::from_secs(1));
    view.arrange(model);
    view
}

fn press(view: &mut View, model: &Model, keys: &str) {
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '>' => KeyCode::Right,
            '<' => KeyCode::Left,
            key => KeyCode::Char(key),
        };
        view.key(KeyEvent::new(code, KeyModifiers::NONE), model);
    }
}

/// The screen of the tenants after `keys`.
fn screen(size: (u16, u16), keys: &str) -> String {
    let mut report = tenants(20);
    report.lost = 12;
    let model = model((0..20).map(tenants).chain([report]));
    let mut view = view(&model);
    // The first time for the sizes that keys go by.
    draw_on(size, &mut view, &model, &LOOK);
    press(&mut view, &model, keys);
    text(&draw_on(size, &mut view, &model, &LOOK))
}

#[test]
fn the_tree() {
    let screen = screen((80, 24), "sjj");
    println!("{screen}");
    assert_eq!(screen.trim_end(), include_str!("tests/tree.txt").trim_end());
}

#[test]
fn the_detail() {
    let screen = screen((80, 24), "jj\n");
    println!("{screen}");
    assert_eq!(
        screen.trim_end(),
        include_str!("tests/detail.txt").trim_end()
    );
}

#[test]
fn the_help() {
    let screen = screen((80, 24), "?");
    println!("{screen}");
    assert_eq!(screen.trim_end(), include_str!("tests/help.txt").trim_end());
}

#[test]
fn the_document_shows_what_is_drawn() {
    let document = include_str!("../../../../../docs/top.md");
    for picture in [
        include_str!("tests/tree.txt"),
        include_str!("tests/detail.txt"),
        include_str!("tests/limits.txt"),
    ] {
        for line in picture.lines().filter(|l| !l.is_empty()) {
            assert!(document.contains(&format!("    {line}\n")), "{line}");
        }
    }
    for (key, does) in crate::top::keys::KEYS {
        assert!(document.contains(&format!("| {key} | {does} |")), "{key}");
    }
}

#[test]
fn what_is_lost_is_red_and_what_is_selected_reversed() {
    let mut report = tenants(2);
    report.lost = 7;
    let model = model([tenants(1), report]);
    let mut view = view(&model);
    let buffer = draw_on((80, 24), &mut view, &model, &LOOK);
    let red = buffer.content.iter().filter(|c| c.fg == Color::Red);
    let red: String = red.map(|c| c.symbol()).collect();
    assert_eq!(red, "lost 7");
    let selected = |y| buffer[(0, y)].modifier.contains(Modifier::REVERSED);
    assert_eq!(
        (2..6).map(selected).collect::<Vec<_>>(),
        [false, true, false, false]
    );
    let plain = Look {
        colour: false,
        ..LOOK
    };
    let buffer = draw_on((80, 24), &mut view, &model, &plain);
    assert!(buffer.content.iter().all(|c| c.fg == Color::Reset));
}

/// The screen of the tenants, of which one is held back, after `keys`.
fn limited(size: (u16, u16), keys: &str, look: &Look) -> Buffer {
    let mut model = model([tenants(1), tenants(2)]);
    let waiting = LimitReport {
        period_ns: Some(60_000_000_000),
        free_in_ns: Some(2_500_000_000),
        labels: [("op".to_owned(), "write".to_owned())].into(),
        ..limit(2, "/tenants", "block_ops", Action::Observe)
    };
    model.limit_by(vec![
        limit(1, "/tenants/a", "tasks_born", Action::Deny(11)),
        waiting,
    ]);
    let mut view = view(&model);
    draw_on(size, &mut view, &model, look);
    press(&mut view, &model, keys);
    draw_on(size, &mut view, &model, look)
}

#[test]
fn what_a_limit_holds_back_is_marked_red() {
    for size in [(80, 24), (40, 10)] {
        let buffer = limited(size, "", &LOOK);
        let screen = text(&buffer);
        assert!(screen.contains("    ▾!a  "), "{screen}");
        assert!(screen.contains("       !job  "), "{screen}");
        assert!(screen.contains("  ▾ tenants  "), "{screen}");
        let red = buffer.content.iter().filter(|c| c.fg == Color::Red);
        assert_eq!(red.map(|c| c.symbol()).collect::<String>(), "!!");
        assert!(text(&limited(size, "?", &LOOK)).contains("! held back by a limit"));
    }
    let ascii = Look {
        unicode: false,
        colour: false,
        ..LOOK
    };
    assert!(text(&limited((80, 24), "", &ascii)).contains("    -!a  "));
}

#[test]
fn the_detail_lists_limits_the_nearest_first() {
    let screen = text(&limited((80, 24), "jj\n", &LOOK));
    let wanted = include_str!("tests/limits.txt");
    let wanted = format!("{wanted}block_bytes  sum of bytes, measured\n");
    assert!(screen.contains(&wanted), "{screen}");
    let screen = text(&limited((40, 10), "jj\n", &LOOK));
    let wanted = "limits
  tasks_born  of /tenants/a  3
  deny:EAGAIN
    used 5, left -2, denied 2
    not free again by itself
  block_ops{op=write}  of /tenants
  3/60s  observe
";
    assert!(screen.contains(wanted), "{screen}");
    // Without a meter there are still limits.
    let mut model = model([report(vec![row(3, "/tenants/a", vec![])])]);
    model.limit_by(vec![limit(1, "/tenants", "tasks_born", Action::Freeze)]);
    let mut view = view(&model);
    press(&mut view, &model, "\n");
    let screen = text(&draw_on((80, 24), &mut view, &model, &LOOK));
    assert!(screen.contains(" !/tenants/a"), "{screen}");
    assert!(screen.contains("of /tenants  3  freeze"), "{screen}");
}

#[test]
fn a_terminal_without_unicode_gets_ascii() {
    let model = model([tenants(1), tenants(2)]);
    let mut view = view(&model);
    let ascii = Look {
        unicode: false,
        ..LOOK
    };
    for keys in ["", "\n", "?", "?\n-"] {
        press(&mut view, &model, keys);
        let screen = text(&draw_on((120, 40), &mut view, &model, &ascii));
        assert!(screen.is_ascii(), "{screen}");
    }
    assert!(text(&draw_on((80, 24), &mut view, &model, &ascii)).contains("+ tenants"));
}

#[test]
fn a_small_screen_has_the_tree_and_the_detail_one_at_a_time() {
    let tree = screen((40, 10), "");
    assert!(tree.contains("cgtap top  lost 12  6 cgroups"), "{tree}");
    assert!(
        tree.contains("▾ tenants") && tree.contains("44.0MiB"),
        "{tree}"
    );
    let detail = screen((40, 10), "jj\n");
    assert!(detail.contains("── /tenants/a ──"), "{detail}");
    assert!(!detail.contains("CGROUP"), "{detail}");
    let scrolled = screen((40, 10), "jj\nJJ");
    assert_ne!(detail, scrolled);
    assert!(screen((40, 10), "f").contains("FROZEN"));
}

#[test]
fn columns_scroll_and_the_one_sorted_by_is_seen() {
    assert!(screen((80, 24), "").contains("CGROUP >"));
    let scrolled = screen((80, 24), ">");
    assert!(scrolled.contains("CGROUP < "), "{scrolled}");
    assert!(!scrolled.contains("block_bytes"), "{scrolled}");
    let last = screen((80, 24), "sssss");
    assert!(
        last.contains("gpu_memory") && last.contains("by gpu_memory"),
        "{last}"
    );
    assert!(screen((80, 24), "ssssss").contains("by name"));
}

#[test]
fn a_filter_works_while_it_is_typed_and_escape_gives_it_back() {
    let typed = screen((80, 24), "/job");
    assert!(
        typed.contains("/job_") && !typed.contains("user.slice"),
        "{typed}"
    );
    assert!(screen((80, 24), "/job\n").contains("by name  /job"));
    assert!(screen((80, 24), "/job\x1b").contains("user.slice"));
    assert!(screen((80, 24), "/job\n\x1b").contains("user.slice"));
    let interval = screen((80, 24), "d2.5\n");
    assert!(interval.contains("every 2.5 s"), "{interval}");
    assert!(screen((80, 24), "d0\n").contains("greater than 0"));
}

#[test]
fn the_selection_follows_its_cgroup() {
    let mut model = model([tenants(1), tenants(2)]);
    let mut view = view(&model);
    press(&mut view, &model, "jjj");
    let job = view.selected();
    // Another cgroup now stands in front of it.
    let mut more = tenants(3);
    more.cgroups.push(row(99, "/a", vec![]));
    model.update(more, Instant::now() + Duration::from_secs(9));
    view.arrange(&model);
    assert_eq!((view.selected(), view.cursor()), (job, 4));
    // Folded away: the nearest above it that is seen.
    press(&mut view, &model, "-");
    assert_eq!(view.lines().len(), 4);
    assert_eq!(view.cursor(), 2);
    press(&mut view, &model, "+G");
    assert_eq!(view.cursor(), 6);
    model.update(report(vec![row(7, "/x", vec![])]), Instant::now());
    view.arrange(&model);
    assert_eq!(view.cursor(), 0);
}

#[test]
fn where_nothing_is_counted_the_way_to_count_is_shown() {
    let model = model([report(vec![row(1, "/", vec![])])]);
    let screen = text(&draw_on((80, 24), &mut view(&model), &model, &LOOK));
    assert!(screen.contains("cgtap meter enable block"), "{screen}");
}

#[test]
fn a_name_cannot_command_the_terminal() {
    let evil = "/\x1b[2J\nx";
    let mut rows = tenants(2).cgroups;
    rows.push(row(9, evil, vec![]));
    let model = model([report(rows)]);
    let mut view = view(&model);
    press(&mut view, &model, "G\n");
    let screen = text(&draw_on((80, 24), &mut view, &model, &LOOK));
    assert!(screen.contains("\\u{1b}[2J\\nx"), "{screen}");
}

#[test]
fn only_what_is_seen_is_drawn() {
    let cost = |cgroups| {
        let model = model([many(cgroups, 1), many(cgroups, 2)]);
        let mut view = view(&model);
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        let mut run = || {
            let begin = Instant::now();
            let drawn = terminal.draw(|frame| draw(frame, &mut view, &model, &LOOK, ""));
            drawn.unwrap();
            begin.elapsed()
        };
        let cost = (0..20).map(|_| run()).min().unwrap();
        println!("{cgroups} cgroups: {cost:?} to draw");
        cost
    };
    // A hundred times as many cgroups; drawing all of them would cost about as much more.
    assert!(cost(10_000) < cost(100) * 10);
}

fn any_key() -> impl Strategy<Value = KeyCode> {
    prop_oneof![
        3 => prop::sample::select("qjkhlgG sSfrd+-/?JK0.5a".chars().collect::<Vec<_>>())
            .prop_map(KeyCode::Char),
        2 => prop::sample::select(vec![
            KeyCode::Up, KeyCode::Down, KeyCode::Left, KeyCode::Right, KeyCode::PageUp,
            KeyCode::PageDown, KeyCode::Home, KeyCode::End, KeyCode::Enter, KeyCode::Esc,
            KeyCode::Backspace, KeyCode::Tab, KeyCode::F(5),
        ]),
        1 => any::<char>().prop_map(KeyCode::Char),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_key_panics_at_any_size(
        steps in prop::collection::vec((any_key(), 1_u16..100, 1_u16..40, 0_u8..10), 1..60),
        unicode in any::<bool>(),
    ) {
        let look = Look { unicode, ..LOOK };
        let mut model = model([tenants(1), tenants(2)]);
        let mut view = view(&model);
        let mut at = Instant::now();
        for (key, width, height, what) in steps {
            let answer = view.key(KeyEvent::new(key, KeyModifiers::NONE), &model);
            prop_assert!(answer != crate::top::keys::Answer::Interrupted);
            at += Duration::from_secs(1);
            match what {
                0 => model.update(many(50, u64::from(width)), at),
                1 => model.update(report(vec![]), at),
                2 => model.update(tenants(u64::from(height)), at),
                3 => model.limit_by(vec![limit(1, "/tenants/a", "x", Action::Freeze)]),
                _ => {}
            }
            view.arrange(&model);
            draw_on((width, height), &mut view, &model, &look);
            prop_assert!(view.cursor() < view.lines().len().max(1));
        }
    }
}
