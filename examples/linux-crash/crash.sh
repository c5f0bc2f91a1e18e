# What the guest runs: everything that leads to the oops. The bell rings ten times a second.
insmod /reminder.ko
echo "remind water the plants" >/proc/reminders
echo "remind call the dentist" >/proc/reminders
echo "star 1" >/proc/reminders
echo "star 2" >/proc/reminders
sleep 0.5
echo "cancel 2" >/proc/reminders
echo "note milk, bread, coffee, something for the neighbours' cat" >/proc/reminders
sleep 1
echo "still running"
