package api

// NotificationsPath takes what registries send when something was pushed or deleted.
const NotificationsPath = "/api/v1/notifications"

// MaxNotifications bounds the events of one request.
const MaxNotifications = 1000

// Notifications are events of a registry, in the form that distribution sends them
// (application/vnd.docker.distribution.events.v1+json and v2). They have more members.
type Notifications struct {
	Events []Notification `json:"events"`
}

// A Notification is that something was pushed, pulled, mounted or deleted.
type Notification struct {
	Action string             `json:"action"` // push, pull, mount, delete
	Target NotificationTarget `json:"target"`
}

// A NotificationTarget is what it was: a blob, a manifest by digest, or one by tag.
type NotificationTarget struct {
	MediaType  string `json:"mediaType"`
	Digest     string `json:"digest"`
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
}
