package differential

// A difference is a reason to refuse here what clients accept.
type difference struct {
	says string   // part of what is said here
	by   []oracle // who accept it
	why  string
}

// Who accepts what: every client, those with gpgme, those without.
var (
	everyone  = []oracle{openpgp, gpgme, skopeo}
	withGPGME = []oracle{gpgme, skopeo}
	withoutIt = []oracle{openpgp}
)

// stricter is all that is refused here and accepted by a client. protocol.md 5.2 says of what is
// uploaded: stricter than all clients.
var stricter = []difference{
	// Keys and algorithms.
	{"is too short to be safe: 2048 bits are the least", everyone, "512 to 1024 bits can be factored"},
	{"it is by a DSA key", everyone, "DSA: not every client reads it, and its SHA-1 past is weak"},
	{"has a curve that not every recent client knows", everyone, "secp256k1: not every build of gpg has this curve"},
	{"its digest is SHA-1", everyone, "collisions of SHA-1 are made for money"},
	{"its digest is RIPEMD-160", withGPGME, "Go clients do not read it"},
	{"in the future; set the signer's clock", withGPGME, "Go clients refuse it; and its signer's clock is wrong"},
	{"dated before all that the key says of itself", withoutIt, "gpg refuses it: a date can be set at will, a key's life is not to be"},

	// Forms of a message.
	{"it is armored", withGPGME, "Go clients read no armor"},
	{"it is clearsigned", withGPGME, "Go clients read no clearsigned text"},
	{"it is a detached signature or one in front of its data", everyone, "Go clients do not read it, but for one in front of a signed message"},
	{"it is not a one-pass signature, its data and one signature", everyone, "what clients skip is signed by nobody, and makes one signature many"},
	{"its one-pass packet announces another signature than follows", everyone, "clients look at different parts of it"},
	{"its one-pass packet is not of version 3, or announces more than one signature", everyone, "as above"},
	{"its literal is cut or of an unknown mode", everyone, "RFC 4880 knows no such literal"},
	{"its signature names two keys", everyone, "which of them clients look for is open"},
	{"it ends in the middle of a packet", everyone, "a length that lies is a message that reads in two ways"},
	{"it has more than one signature", withoutIt, "gpgme refuses it, and it is not said by whom of the two the image is signed"},
	{"there is more in it than one signed message", everyone, "what is behind is signed by nobody"},
	{"there is something behind the compressed message", everyone, "it is signed by nobody, and makes one signature many"},
	{"it does not inflate", everyone, "clients stop reading before the checksum"},
	{"it does not read", withGPGME, "Go clients do not read it: something that is not signed is not as RFC 4880 has it"},
	{"bytes behind the compressed data", everyone, "it is signed by nobody, and makes one signature many"},
	{"it is compressed twice", everyone, "it inflates without limit"},
	{"bytes, more than 65536", everyone, "a signature has a thousand bytes, and an upload is bounded"},
	{"it inflates to more than 65536 bytes", everyone, "as above"},

	// Claims.
	{"optional.timestamp is null", everyone, "containers-signature(5) has a number"},
	{"is not whole seconds of the years 1970 to 9999", everyone, "it is a time that RFC 3339 cannot say"},
	{"null where a string belongs", everyone, "containers-signature(5) has a string"},
	{"stands there twice", everyone, "clients look for it at some depths only; what others read is open"},
	{"optional is nested deeper than", everyone, "a reader that recurses is not to be led far"},
	{"is not one JSON value in UTF-8", everyone, "what is stored is shown, and must be text"},
	{"has neither tag nor digest", everyone, "it says of a whole repository that it is this manifest"},
	{"which has another digest", []oracle{openpgp, gpgme}, "the claim contradicts itself; only uploads are held to it, clients compare repositories"},

	// Policies. Clients read key files and keyData when an image asks for them.
	{"no such file or directory", everyone, "a policy is in force whole or not at all"},
	{"no usable public key in it", everyone, "as above"},
	{"has a tag or digest; a repository is wanted", everyone, "containers-policy.json(5) wants a repository; clients drop the tag"},
	{"is neither host[:port] nor host[:port]/namespace in full", everyone, "containers-policy.json(5) wants a name in full; clients let a prefix that never matches stand"},
}

// An exception is what is accepted here and not by every client.
type exception struct {
	name string
	by   oracle
	why  string
}

var laxer = []exception{
	{"signing subkey", skopeo, "protocol.md 5.2, signing subkey: containers/image reads it from 5.37 on; it is admitted with clients: recent only"},
	{"keyring of two armored blocks, the second signed", openpgp, "protocol.md 5.2, keyring of several armored blocks: this is of a policy's keys and not of signatures; the keyrings that are handed out have one block"},
}
