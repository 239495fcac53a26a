use super::*;
use crate::record::tests::draw::{for_all, level};
use proptest::prelude::*;
use signed_note::{
    Note as TheirNote, Signer as _, StandardSigner, StandardVerifier, Verifier as _, VerifierList,
};
use tlog_tiles::{Checkpoint as CheckpointText, Hash as TheirHash};

fn verifier(signer: &Signer, name: &str) -> Verifier {
    Verifier::new(name, &signer.public()).expect("a key of ours is a key")
}

#[test]
fn checkpoints_are_read_by_those_who_know_the_specification_and_theirs_by_us() {
    let cases = level(50, 500, 5_000);
    let drawn = (
        any::<[u8; 32]>(),
        any::<[u8; 16]>(),
        any::<u64>(),
        any::<[u8; 32]>(),
    );
    for_all(
        "checkpoints",
        cases,
        &drawn,
        |(seed, ledger_id, size, root)| {
            let signer = Signer::from_seed(&seed);
            let head = Head {
                origin: origin("host 1+\u{e9}", &ledger_id),
                size,
                root,
            };
            let note = signer.note(&head.text());
            let vkey = verifier(&signer, &head.origin).vkey();

            let theirs = StandardVerifier::new(&vkey).expect("they know the form of our keys");
            assert_eq!(theirs.name(), head.origin);
            let read = TheirNote::from_bytes(note.as_bytes()).expect("it is a note to them");
            let known = VerifierList::new(vec![Box::new(theirs)]);
            let (signed, unknown) = read.verify(&known).expect("they find it signed");
            assert_eq!((signed.len(), unknown.len()), (1, 0));
            let text = CheckpointText::from_bytes(read.text()).expect("a checkpoint to them");
            assert_eq!(text.origin(), head.origin);
            assert_eq!((text.size(), text.hash().0), (size, root));
            assert_eq!(text.extension(), "");

            // The other way round: their text, their signature.
            let hash = &vkey[head.origin.len()..][1..9];
            let key = [&[ED25519], &seed[..]].concat();
            let secret = format!("PRIVATE+KEY+{}+{hash}+{}", head.origin, base64(&key));
            let theirs = StandardSigner::new(&secret).expect("they know our key");
            assert_eq!(theirs.name(), head.origin);
            let text =
                CheckpointText::new(&head.origin, size, TheirHash(root), "").expect("a text");
            let mut their_note = TheirNote::new(&text.to_bytes(), &[]).expect("a note");
            their_note.add_sigs(&[&theirs]).expect("it is signed");
            assert_eq!(their_note.to_bytes(), note.as_bytes());

            let keys = [verifier(&signer, &head.origin)];
            let read = Note::parse(&note).expect("it is a note");
            assert_eq!(read.signers(&keys), Ok(vec![0]));
            assert_eq!(Head::parse(read.text), Ok(head));
            assert_eq!(keyring(&format!("# one\n\n{vkey}\n")), Ok(keys.to_vec()));
            Ok(())
        },
    );
}

#[test]
fn no_byte_of_a_checkpoint_can_be_changed() {
    let signer = Signer::from_seed(&[3; 32]);
    let head = Head {
        origin: origin("host-1", &[0xAB; 16]),
        size: 17,
        root: [9; 32],
    };
    let keys = [verifier(&signer, &head.origin)];
    let note = signer.note(&head.text());
    let mut cases = 0;
    for at in 0..note.len() {
        for change in 1..=255_u8 {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= change;
            let Ok(bent) = String::from_utf8(bytes) else {
                continue;
            };
            let signed = Note::parse(&bent).and_then(|note| note.signers(&keys));
            assert!(signed.is_err(), "byte {at}: {bent}");
            cases += 1;
        }
        let cut = note.get(..at).map(Note::parse);
        assert!(cut.is_none_or(|cut| cut.is_err()), "cut off at {at}");
    }
    println!("CASES: bytes of a checkpoint changed: {cases}");
}

#[test]
fn a_signature_of_another_key_name_or_text_is_none() {
    let (signer, other) = (Signer::from_seed(&[1; 32]), Signer::from_seed(&[2; 32]));
    let note = signer.note("octroi/a/00\nseal state\n");
    let read = Note::parse(&note).expect("it is a note");
    let signers = |key: &Signer, name| read.signers(&[verifier(key, name)]);
    assert_eq!(signers(&signer, "octroi/a/00"), Ok(vec![0]));
    assert_eq!(signers(&other, "octroi/a/00"), Err(NoteError::Unsigned));
    assert_eq!(signers(&signer, "octroi/a/01"), Err(NoteError::Unsigned));
    assert_eq!(Head::parse(read.text), Err(NoteError::NotACheckpoint));
    let signature = signer.signature(read.text);
    let key = verifier(&signer, "any");
    assert!(key.has_signed(read.text, &signature));
    assert!(!key.has_signed("octroi/a/00\nseal state", &signature));
}

#[test]
fn a_cosignature_of_somebody_unknown_does_no_harm() {
    let (signer, witness) = (Signer::from_seed(&[1; 32]), Signer::from_seed(&[2; 32]));
    let text = "octroi/a/00\n1\n";
    let note = signer.note(text);
    let line = witness.note("witness.example/w\n");
    let line = line.lines().last().expect("a signature");
    let both = format!("{note}{line}\n");
    let keys = [verifier(&signer, "octroi/a/00")];
    let read = Note::parse(&both).expect("it is a note");
    assert_eq!((read.signatures(), read.signers(&keys)), (2, Ok(vec![0])));
}

#[test]
fn a_verifier_key_has_one_form() {
    let key = verifier(&Signer::from_seed(&[5; 32]), "octroi/host-1/00");
    let vkey = key.vkey();
    assert_eq!(Verifier::parse(&vkey), Ok(key));
    for bad in [
        vkey.replace("octroi", "octro1"),
        vkey.replace('+', "-"),
        vkey.to_uppercase(),
        vkey.clone() + "=",
        format!(" {vkey}"),
        vkey[1..].to_owned(),
    ] {
        assert!(Verifier::parse(&bad).is_err(), "{bad}");
    }
}
