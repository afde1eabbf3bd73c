package signature

import (
	"bytes"
	"compress/bzip2"
	"compress/flate"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"io"
)

// Packet tags of signed messages and of keys (RFC 4880, 4.3).
const (
	tagSignature     = 2
	tagOnePass       = 4
	tagPrivateKey    = 5
	tagPublicKey     = 6
	tagPrivateSubkey = 7
	tagCompressed    = 8
	tagMarker        = 10
	tagLiteral       = 11
	tagTrust         = 12
	tagUserID        = 13
	tagPublicSubkey  = 14
	tagUserAttribute = 17
	tagPadding       = 21
)

// A packet is one of a message, its length resolved.
type packet struct {
	tag  byte
	body []byte
}

// The first part of a body of partial lengths has 512 bytes at least (RFC 4880, 4.2.2.4), and
// gpg's parts have 8 KiB.
const (
	minFirstPart = 512
	maxParts     = 256
)

// packetTag is what a packet's first byte says it is.
func packetTag(first byte) byte {
	if first&0x40 == 0 {
		return (first & 0x3c) >> 2
	}
	return first & 0x3f
}

// nextPacket reads the first packet of data, which is not empty.
func nextPacket(data []byte) (p packet, rest []byte, err error) {
	first := data[0]
	switch {
	case first&0x80 == 0:
		return packet{}, nil, malformed("it does not begin as a binary OpenPGP message does")
	case first&0x40 == 0:
		return oldPacket(packetTag(first), first&3, data[1:])
	}
	return newPacket(packetTag(first), data[1:])
}

// oldPacket reads the old format; length type 3 is what is left, which only compressed data may have.
func oldPacket(tag, lengthType byte, data []byte) (packet, []byte, error) {
	if lengthType == 3 {
		if tag != tagCompressed {
			return packet{}, nil, malformed("a packet of tag %d has no length", tag)
		}
		return packet{tag, data}, nil, nil
	}
	size := 1 << lengthType
	if len(data) < size {
		return packet{}, nil, malformed("it ends in the middle of a packet")
	}
	var length [4]byte
	copy(length[4-size:], data[:size])
	return cutPacket(tag, binary.BigEndian.Uint32(length[:]), data[size:])
}

func newPacket(tag byte, data []byte) (packet, []byte, error) {
	var body []byte
	for part := 0; ; part++ {
		length, partial, rest, err := newLength(data)
		if err != nil {
			return packet{}, nil, err
		}
		if !partial && part == 0 {
			return cutPacket(tag, length, rest)
		}
		if partial && tag != tagCompressed && tag != tagLiteral || part == maxParts {
			return packet{}, nil, malformed("a packet of tag %d comes in parts", tag)
		}
		if part == 0 && length < minFirstPart {
			return packet{}, nil, malformed("a packet of tag %d comes in parts of less than %d bytes", tag, minFirstPart)
		}
		p, rest, err := cutPacket(tag, length, rest)
		if err != nil {
			return packet{}, nil, err
		}
		body, data = append(body, p.body...), rest
		if !partial {
			return packet{tag, body}, data, nil
		}
	}
}

// newLength reads a length of the new format (RFC 4880, 4.2.2).
func newLength(data []byte) (length uint32, partial bool, rest []byte, err error) {
	switch {
	case len(data) > 0 && data[0] < 192:
		return uint32(data[0]), false, data[1:], nil
	case len(data) > 1 && data[0] < 224:
		return uint32(data[0]-192)<<8 + uint32(data[1]) + 192, false, data[2:], nil
	case len(data) > 0 && data[0] >= 224 && data[0] < 255:
		return 1 << (data[0] & 0x1f), true, data[1:], nil
	case len(data) > 4 && data[0] == 255:
		return binary.BigEndian.Uint32(data[1:5]), false, data[5:], nil
	}
	return 0, false, nil, malformed("it ends in the middle of a packet")
}

func cutPacket(tag byte, length uint32, data []byte) (packet, []byte, error) {
	if uint64(length) > uint64(len(data)) {
		return packet{}, nil, malformed("it ends in the middle of a packet")
	}
	return packet{tag, data[:length]}, data[length:], nil
}

// inflate returns what a compressed packet has in it, at most MaxSize bytes, and nothing behind.
func inflate(body []byte) ([]byte, error) {
	if len(body) == 0 {
		return nil, malformed("the compressed packet is empty")
	}
	in := bytes.NewReader(body[1:])
	var r io.Reader
	switch body[0] {
	case 1:
		r = flate.NewReader(in)
	case 2:
		z, err := zlib.NewReader(in)
		if err != nil {
			return nil, malformed("it does not inflate: %v", err)
		}
		r = z
	case 3:
		in = bytes.NewReader(smallBlocks(body[1:]))
		r = bzip2.NewReader(in)
	default:
		return nil, malformed("it is compressed by algorithm %d, which is none of ZIP, ZLIB and BZip2", body[0])
	}
	inflated, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	switch {
	case err != nil:
		return nil, malformed("it does not inflate: %v", err)
	case len(inflated) > MaxSize:
		return nil, malformed("it inflates to more than %d bytes", MaxSize)
	case in.Len() > 0:
		return nil, malformed("there are %d bytes behind the compressed data", in.Len())
	}
	return inflated, nil
}

// smallBlocks says of BZip2 data that its blocks are of 100,000 bytes at most, the least that can be
// said. That is more than is read, and of nine times as much all would be sorted for the first byte.
func smallBlocks(data []byte) []byte {
	const level = len("BZh")
	if len(data) > level && data[level] >= '1' && data[level] <= '9' {
		data = bytes.Clone(data)
		data[level] = '1'
	}
	return data
}

// kind names what a person sent instead of a signed message.
func kind(tag byte) string {
	switch tag {
	case 1, 3, 9, 18, 20:
		return "it is encrypted; sign without encrypting"
	case tagSignature:
		return "it is a detached signature or one in front of its data; sign with gpg --sign"
	case tagLiteral:
		return "it has data and no signature; sign with gpg --sign"
	case tagPrivateKey, tagPublicKey, tagPrivateSubkey, tagPublicSubkey:
		return "it is a key, not a signature"
	case tagMarker, tagPadding:
		return "it begins with a marker or padding, which not every client skips"
	case tagCompressed:
		return "it is compressed twice"
	}
	return fmt.Sprintf("it begins with a packet of tag %d", tag)
}
