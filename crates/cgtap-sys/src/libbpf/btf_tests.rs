use super::{Btf, BtfError, BtfKind, Linkage};

#[test]
fn what_is_built_can_be_read_back() {
    let mut btf = Btf::new_empty().unwrap();
    let int = btf.add_int("int", 4, true).unwrap();
    let ctx = btf.add_ptr(0).unwrap();
    let proto = btf.add_func_proto(int, &[("ctx", ctx)]).unwrap();
    let func = btf.add_func("entry", Linkage::Global, proto).unwrap();
    let text = btf.add_str("line").unwrap();
    assert_eq!(btf.type_name(func), Some("entry"));
    assert_eq!(btf.target(func), Some(proto));
    assert_eq!(btf.func_proto_param_count(proto), Some(1));
    assert_eq!(
        btf.func_proto_params(proto).unwrap()[0],
        ("ctx".to_owned(), ctx)
    );
    assert_eq!(btf.str_at(text), Some("line"));
    assert_eq!(btf.find("entry", BtfKind::Func), Some(func));
    assert_eq!(btf.find("entry", BtfKind::Struct), None);
    assert!(btf.int_info(int).unwrap().signed);

    // The flip must reach bytes that were already asked for once.
    let before = btf.raw();
    btf.set_func_static(func).unwrap();
    let after = btf.raw();
    assert_ne!(before, after);
    let again = Btf::from_bytes(&after).unwrap();
    assert_eq!(again.func_linkage(func), Some(Linkage::Static));
    assert!(btf.set_func_static(int).is_err());
    assert!(btf.set_func_static(999).is_err());
}

#[test]
fn merging_shifts_types_and_renews_strings() {
    let mut a = Btf::new_empty().unwrap();
    a.add_int("int", 4, true).unwrap();
    a.add_str("first").unwrap();
    let mut b = Btf::new_empty().unwrap();
    let long = b.add_int("long", 8, true).unwrap();
    let line = b.add_str("return 0;").unwrap();
    let b = Btf::from_bytes(&b.raw()).unwrap();
    let shift = a.add_btf(&b).unwrap();
    assert_eq!(a.type_name(shift.apply(long)), Some("long"));
    assert_eq!(shift.apply(0), 0);
    let moved = a.copy_str(&b, line).unwrap();
    assert_ne!(moved, line);
    assert_eq!(a.str_at(moved), Some("return 0;"));
    assert_eq!(a.copy_str(&b, 0xffff).unwrap(), 0);
    let again = Btf::from_bytes(&a.raw()).unwrap();
    assert_eq!(again.type_count(), 3);
}

#[test]
fn the_kernels_own_layout_is_found() {
    let btf = Btf::vmlinux().unwrap();
    assert_eq!(btf.field_offset("cgroup", "self").unwrap(), 0);
    let kn = btf.field("cgroup", "kn").unwrap();
    let pointee = btf.pointee(kn.type_id).unwrap();
    assert_eq!(btf.type_name(pointee), Some("kernfs_node"));
    assert!(btf.field_offset("kernfs_node", "id").unwrap() > 0);
    assert_eq!(
        btf.field_offset("cgroup", "self.id").unwrap(),
        btf.field_offset("cgroup_subsys_state", "id").unwrap()
    );
    assert!(matches!(
        btf.field_offset("cgroup", "nothing"),
        Err(BtfError::Missing { what: "member", .. })
    ));
    assert!(matches!(
        btf.field_offset("no_such_struct", "x"),
        Err(BtfError::Missing { what: "struct", .. })
    ));
}

#[test]
fn bytes_that_are_no_btf_are_refused() {
    let mut btf = Btf::new_empty().unwrap();
    btf.add_int("int", 4, true).unwrap();
    let good = btf.raw();
    for len in 0..good.len() {
        assert!(Btf::from_bytes(&good[..len]).is_err(), "{len} bytes");
    }
    let mut short_header = good.clone();
    short_header[4] = 8;
    assert!(Btf::from_bytes(&short_header).is_err());
    let mut swapped = good;
    swapped.swap(0, 1);
    assert!(matches!(
        Btf::from_bytes(&swapped),
        Err(BtfError::Malformed { .. })
    ));
}

#[test]
fn the_kernels_types_are_read_once_while_they_are_kept() {
    let read = |btf: &Btf| btf.ptr.as_ptr();
    let kept = Btf::keep_vmlinux();
    let first = read(&Btf::vmlinux().unwrap());
    drop(Btf::keep_vmlinux());
    let user = Btf::vmlinux().unwrap();
    assert_eq!(read(&user), first);
    drop(kept);
    // Whoever has it shares it, and the last one frees it.
    assert!(std::rc::Rc::ptr_eq(&user, &Btf::vmlinux().unwrap()));
    let weak = std::rc::Rc::downgrade(&user);
    drop(user);
    assert!(weak.upgrade().is_none());
}
