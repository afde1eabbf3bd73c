package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/countersign-dev/countersign/api"
)

const (
	fileName  = "signatures.db"
	ownerName = "owner"
	format    = "2"
)

// Open opens the store in a directory, which is made, private, if it is not there. While another
// process has it, the error names that one, after a second.
func Open(directory string, o Options) (*Store, error) {
	if o.Memory == 0 {
		o.Memory = 128 << 20
	}
	if o.Damaged == nil {
		o.Damaged = func(api.Image, string, error) {}
	}
	path := filepath.Join(directory, fileName)
	if err := create(directory, path); err != nil {
		return nil, err
	}
	db, err := openFile(path)
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%s is in use by %s\nhint: stop that one first, or give this one another directory", directory, owner(directory))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w\nhint: if the file is damaged, bring it back from a backup", path, err)
	}
	f := newFile(db)
	if err := f.view(checkFile); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.close())
	}
	own(directory, o.Clock())
	return &Store{f, &batches{file: f}, o, newMemory(o.Memory)}, nil
}

// openFile gives the lock back where bbolt panics, too. What is mapped then stays so, and would keep it.
func openFile(path string) (db *bbolt.DB, err error) {
	var file *os.File
	o := bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType}
	o.OpenFile = func(name string, flag int, mode fs.FileMode) (_ *os.File, err error) {
		file, err = os.OpenFile(name, flag, mode)
		return file, err
	}
	err = recovered(func() error {
		db, err = bbolt.Open(path, 0o600, &o)
		return err
	})
	if err != nil && file != nil {
		_ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
		_ = file.Close()
	}
	return db, err
}

// create makes an empty store under another name and links it into place: there is never a file
// that is not whole, not after a crash either, and two processes agree on one.
func create(directory, path string) error {
	if err := makeDirectory(directory); err != nil {
		return err
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, syncDirectory(directory))
	}
	private, err := os.MkdirTemp(directory, "new-")
	if err != nil {
		return err
	}
	made := filepath.Join(private, fileName)
	err = createFile(made)
	if err == nil {
		err = os.Link(made, path)
	}
	if errors.Is(err, fs.ErrExist) {
		err = nil // another process was faster
	}
	return errors.Join(err, os.RemoveAll(private), syncDirectory(directory))
}

func createFile(path string) error {
	db, err := openFile(path)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketImages, bucketContents, bucketRecords, bucketTasks, bucketDue} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put([]byte("format"), []byte(format))
	})
	return errors.Join(err, db.Close())
}

// checkFile refuses a file that was cut off, too: it may seem well until its end is read.
func checkFile(tx *bbolt.Tx) error {
	info, err := os.Stat(tx.DB().Path())
	if err != nil {
		return err
	}
	if info.Size() < tx.Size() {
		return fmt.Errorf("it was cut off: it has %d bytes, and had %d\nhint: bring it back from a backup", info.Size(), tx.Size())
	}
	return checkFormat(tx)
}

func checkFormat(tx *bbolt.Tx) error {
	meta := tx.Bucket(bucketMeta)
	if meta == nil {
		return errors.New("this is no store of signatures: give the server another directory")
	}
	if have := string(meta.Get([]byte("format"))); have != format {
		return fmt.Errorf("it has format %.20q, and this program reads %q: use the version that wrote it, or a later one", have, format)
	}
	return nil
}

// makeDirectory makes the names of what it makes durable.
func makeDirectory(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	if err := makeDirectory(parent); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDirectory(parent)
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// own leaves word of who has the store, for a person whose second process cannot have it. Where it
// cannot be written, as on a full disk, there is none: that of somebody before would be wrong.
func own(directory string, now time.Time) {
	host, err := os.Hostname()
	if err != nil {
		host = "this machine"
	}
	word := fmt.Sprintf("process %d on %s, since %s\n", os.Getpid(), host, now.UTC().Format(time.RFC3339))
	path := filepath.Join(directory, ownerName)
	err = os.WriteFile(path+".new", []byte(word), 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		_ = os.Remove(path + ".new")
		_ = os.Remove(path)
	}
}

func owner(directory string) string {
	word, err := os.ReadFile(filepath.Join(directory, ownerName))
	if err != nil || len(word) > 1000 {
		return "another process"
	}
	return strings.TrimSpace(string(word))
}
